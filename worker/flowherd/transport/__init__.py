"""How bytes reach the engine: connections, their pool, and what replies are made of."""
