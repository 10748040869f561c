"""Runs handlers on the loop and in threads, and measures their cost."""
