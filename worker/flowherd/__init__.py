"""Runs Python activities on many processes."""
