"""Notifies systemd of the service's state over the socket in `NOTIFY_SOCKET`; does nothing without one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from math import inf


class ServiceManager:
    """Client of `Type=notify`, from `NOTIFY_SOCKET` and `WATCHDOG_USEC` (sd_notify(3)).

    The variables are removed from the environment, so that no child notifies in place of the supervisor.

    Attributes:
        beat_every_s: seconds between two `WATCHDOG=1`, infinity without a watchdog.

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
            if "RELOADING=1" in lines:  # systemd matches the reload by this time
                message += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
            self._send(message)

    def beat(self) -> None:
        """Sends `WATCHDOG=1`, which holds for one interval of the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)  # a manager that does not read must not stop us
            sock.sendto(message.encode(), self._address)


def _beat_every_s() -> float:
    """Returns a third of the watchdog's time; infinity if it is meant for another process (sd_watchdog_enabled(3))."""
    asked = os.environ.pop("WATCHDOG_USEC", "")
    meant_for = os.environ.pop("WATCHDOG_PID", "")
    if not asked.isdigit() or int(asked) == 0 or (meant_for and meant_for != str(os.getpid())):
        return inf
    return int(asked) / 3e6
