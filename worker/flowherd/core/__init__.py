"""Decisions and data without effects: no os, time, signal, socket, random, asyncio or httpx in this folder."""
