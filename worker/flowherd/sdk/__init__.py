"""What users write and what becomes of it: activities, parameters, outputs; no engine and no process here."""
