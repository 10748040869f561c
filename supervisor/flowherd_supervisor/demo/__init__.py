"""`flowherd demo`: a real workload on real programs in one command; only `flowherd bench` may import of it."""
