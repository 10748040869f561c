"""`python sender.py APP`: sends tasks of one contender for each line `NAME FIRST COUNT SECONDS`, then says so."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from importlib import import_module
from inspect import isawaitable

from work import note


async def main() -> None:
    """Reads lines until there are no more."""
    app = import_module(sys.argv[1])
    opened = getattr(app, "opened", None)
    async with opened() if opened else nullcontext():
        print("ready", flush=True)
        while line := sys.stdin.readline():
            name, first, count, seconds = line.split()
            for number in range(int(first), int(first) + int(count)):
                note(b"s", number)
                sent = app.send(name, number, float(seconds))
                if isawaitable(sent):
                    await sent
            print("sent", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
