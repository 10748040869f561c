"""The supervisor's decisions: pure functions and frozen data; no os, time, signal, socket, random, asyncio."""
