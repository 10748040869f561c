"""A worker: claims activities, runs their handlers in its slots, and delivers their outcomes."""
