"""working."""
