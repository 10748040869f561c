"""The commands of `flowherd`, each with its flags and its output."""
