"""The engine's verbs over HTTP: transports, tokens, replies, and one gate for outages."""
