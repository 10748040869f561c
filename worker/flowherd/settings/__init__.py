"""The model of settings for `flowherd run` and `python -m flowherd`: flag > environment > file > default."""
