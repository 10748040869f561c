"""Adapts apps of the kruxiaflow SDK; the only folder that touches that SDK, and only if the app did."""
