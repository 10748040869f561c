"""Spans of activities, sent by OpenTelemetry, which is imported only when spans are enabled."""
