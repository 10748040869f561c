"""The settings of `flowherd run` and `python -m flowherd`: flag > environment > file > default."""

DEFAULT_WORKER_TYPE = "py-std"
