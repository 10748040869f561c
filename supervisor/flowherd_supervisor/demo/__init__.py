"""`flowherd demo`: a real workload on real programs in one command."""
