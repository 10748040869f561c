"""Heartbeats and settlements from the ledger, run by the keeper without user code."""
