"""Where handlers run: on the loop, in threads; what they cost there."""
