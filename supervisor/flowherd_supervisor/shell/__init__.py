"""The supervisor around its brain: it waits, gathers facts, and performs what the brain decides."""
