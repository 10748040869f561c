"""Spans of activities, sent to a collector by OpenTelemetry; nothing of it is imported where it is not asked for."""
