"""The transport of bytes to the engine: connections, their pool, and the parser of replies."""
