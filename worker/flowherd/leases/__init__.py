"""Heartbeats and settlements out of the shared ledger; run by the keeper, no user code."""
