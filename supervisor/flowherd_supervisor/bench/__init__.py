"""`flowherd bench`: the scaling curve of the user's machine in one command."""
