"""Parses the stacks that faulthandler wrote at a fatal signal or during a slow import."""

from __future__ import annotations

import re

from flowherd.user_code import innermost

ROOM = 3_000  # characters
_FRAMES = 20  # innermost frames of a thread
_FRAME = re.compile(r'^File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
# Every process is a fork: its own frames are followed by those of the process that forked it.
_FORKED_BY = re.compile(
    r'/flowherd_supervisor/((processes|shell|cli)/\w+|__main__)\.py"|/flowherd/settings/command_exit\.py"'
    r"|/cyclopts/|<frozen runpy>"
)


def shortened(text: str) -> list[str]:
    """Returns the error, then the innermost frames of each thread.

    The main thread comes last and is the last to be shortened: handlers block it.

    Args:
        text: output of faulthandler: a line with the error, then a block of lines for each thread.

    """
    first, *rest = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    room = ROOM
    kept: list[str] = []
    for thread in reversed(_threads(rest)):
        own = [line for line in thread if not _FORKED_BY.search(line)][: _FRAMES + 1]
        while own and sum(map(len, own)) > room:
            own.pop()
        room -= sum(map(len, own))
        kept = own + kept
    return [first, *kept] if first else []


def standing_at(text: str) -> str:
    """Returns the user's innermost frame of the main thread, "" if there is none.

    Args:
        text: as above.

    """
    threads = _threads([line.strip() for line in text.splitlines() if line.strip()])
    return innermost((file, int(line), name) for file, line, name in _FRAME.findall("\n".join(threads[-1])))


def _threads(lines: list[str]) -> list[list[str]]:
    threads: list[list[str]] = [[]]
    for line in lines:
        if line.endswith("(most recent call first):"):
            threads.append([])
        if not line.startswith("Extension modules:"):
            threads[-1].append(line)
    return threads
