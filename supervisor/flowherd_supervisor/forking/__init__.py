"""How processes are made, reached and reaped: by the supervisor itself, or from the one that has imported the app."""
