"""Tells systemd how the service is, over the datagram socket it names; without one it does nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from math import inf


class ServiceManager:
    """The other side of `Type=notify`, out of `NOTIFY_SOCKET` and `WATCHDOG_USEC` (sd_notify(3)).

    The variables are taken out of the environment, so that no child speaks for the supervisor.

    Attributes:
        beat_every_s: seconds between two `WATCHDOG=1` that the manager wants to see, infinity when it wants none.

    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said = ""
        self.beat_every_s = _beat_every_s() if address else inf

    def say(self, *lines: str) -> None:
        """Sends lines such as `READY=1` in one message; the same message is not sent twice in a row."""
        message = "\n".join(lines)
        if message != self._said:
            self._said = message
            if "RELOADING=1" in lines:  # systemd tells by the time which reload it is about
                message += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
            self._send(message)

    def beat(self) -> None:
        """Says that all is well, for one more interval of the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)  # a manager that does not read must not stop us
            sock.sendto(message.encode(), self._address)


def _beat_every_s() -> float:
    """A third of the watchdog's time; the variables may be meant for another process (sd_watchdog_enabled(3))."""
    asked = os.environ.pop("WATCHDOG_USEC", "")
    meant_for = os.environ.pop("WATCHDOG_PID", "")
    if not asked.isdigit() or int(asked) == 0 or (meant_for and meant_for != str(os.getpid())):
        return inf
    return int(asked) / 3e6
