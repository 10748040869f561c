"""The supervisor's brain: pure functions and frozen data; no os, time, signal, socket, random, asyncio."""
