"""One attempt at a time: a handler on the loop or in a thread, with its limit; it never reports."""
