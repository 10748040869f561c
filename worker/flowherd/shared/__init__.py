"""The memory that all processes of a host share: cells, records, suspects, and bells to ring."""
