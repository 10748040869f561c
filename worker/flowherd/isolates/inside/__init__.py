"""What runs in an isolate itself: it hears its worker, runs handlers, and asks for all else."""
