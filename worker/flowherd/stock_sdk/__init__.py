"""Apps of the kruxiaflow SDK, seen as ours; the only folder that touches that SDK, and only if the app did."""
