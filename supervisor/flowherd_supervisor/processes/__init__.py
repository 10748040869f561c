"""Processes: forking, the table of live ones, killing and reaping."""
