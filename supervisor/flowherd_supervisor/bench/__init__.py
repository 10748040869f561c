"""`flowherd bench`: the scaling curve of the user's own machine in one command; nothing else may import it."""
