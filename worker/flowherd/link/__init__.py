"""The link between the supervisor and each of its processes, and the messages on it."""
