"""The link between the supervisor and its processes, and its messages."""
