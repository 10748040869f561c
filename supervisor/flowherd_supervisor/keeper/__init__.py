"""The keeper: the process that beats, settles, holds the host's token and tells how things stand; no user code."""
