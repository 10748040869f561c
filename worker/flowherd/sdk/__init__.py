"""The users' side: activities, parameters, outputs; no engine and no process here."""
