"""Tells systemd how the service is, over the datagram socket it names; without one it does nothing."""

from __future__ import annotations

import contextlib
import os
import socket


class ServiceManager:
    """The other side of `Type=notify`, out of `NOTIFY_SOCKET`.

    The variable is taken out of the environment, so that no child speaks for the supervisor.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said = ""

    def say(self, *lines: str) -> None:
        """Sends lines such as `READY=1` in one message; the same message is not sent twice in a row."""
        message = "\n".join(lines)
        if not self._address or message == self._said:
            return
        self._said = message
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), self._address)  # a manager that does not listen must not stop us
