"""Processes: forking, the table of those that live, killing and reaping."""
