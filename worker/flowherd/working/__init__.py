"""The worker: takes slots, polls, holds what it was given, delivers what became of it."""
