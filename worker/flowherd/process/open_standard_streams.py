"""Descriptors 0, 1 and 2 of a program that was started without them, before it opens anything else."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed_streams() -> None:
    """Opens /dev/null in place of each of the descriptors 0, 1 and 2 that is closed (faults.md N14).

    What is opened next would get their numbers: a socket in the place of stderr takes the log of every process.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(fd, True)  # noqa: FBT003 - a program of a handler needs them too
        if getattr(sys, name) is None:  # Python has found it closed
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
