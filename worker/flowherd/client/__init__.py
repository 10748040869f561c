"""The client of the engine: its calls over HTTP, tokens, replies, and a circuit breaker for outages."""
