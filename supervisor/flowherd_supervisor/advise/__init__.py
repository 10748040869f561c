"""Advice from measurements: where each activity should run, and how many processes."""
