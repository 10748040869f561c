"""Advice from measurements: a place for each activity and a number of processes."""
