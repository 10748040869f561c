"""The transport of bytes to the engine: connections, their pool, and what replies are made of."""
