"""Adapters for apps of the kruxiaflow SDK; they use that SDK only if the app has imported it."""
