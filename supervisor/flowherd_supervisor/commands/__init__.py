"""The commands beside `run`: each talks to a running supervisor, to an engine, or to the user's folder."""
