"""Processes that run one activity at a time for a worker: the pool, a conversation, and in `inside/` the other end."""
