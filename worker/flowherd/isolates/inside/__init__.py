"""The isolate's own side: it reads what its worker sends, runs handlers and calls the engine."""
