"""What activities take of their process while they run as always: CPU, waits, blocks, the GIL; it judges nothing."""
