"""Opens descriptors 0, 1 and 2 of a program that was started without them, before it opens others."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed_streams() -> None:
    """Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed (faults.md N14).

    The next file opened would get such a number: a socket in place of stderr would receive every process's log.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(fd, True)  # noqa: FBT003 - a program of a handler needs them too
        if getattr(sys, name) is None:  # it was closed when Python started
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
