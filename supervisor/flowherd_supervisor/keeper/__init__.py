"""The keeper: the process that sends heartbeats, settles, holds the host's token and serves the admin API."""
