"""The supervisor around its state machine: waits, collects events and performs actions."""
