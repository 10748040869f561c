"""A worker as a process: what happens after the fork or at the command line, and the link to its parent."""
