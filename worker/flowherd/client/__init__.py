"""The engine's verbs over HTTP: transports, tokens, replies, and one circuit for outages."""
