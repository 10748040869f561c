"""Where settings come from, what they may be, and what is unwise."""
