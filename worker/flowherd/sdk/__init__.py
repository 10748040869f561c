"""The public SDK: activities, parameters, contexts and outputs."""
