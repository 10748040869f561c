"""A worker as a process, forked by the supervisor or started from the command line."""
