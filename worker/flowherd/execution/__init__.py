"""The running of handlers: on the loop, in threads; what they cost there."""
