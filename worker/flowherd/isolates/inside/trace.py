"""The trace of an attempt as its isolate sees it: the span is the worker's, which hears what was raised here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flowherd.isolates.isolate_protocol import Raised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.isolates.inside.voice import Voice
    from flowherd.model import Outcome
    from flowherd.sdk.run_state import CancelReason

_MOST_CHARS = 8000  # of a text: a message has a limit


class RemoteTrace:
    """`flowherd.execution.environment.Trace` by way of the worker."""

    def __init__(self, voice: Voice, carrier: Mapping[str, str]) -> None:
        self._voice = voice
        self._carrier = carrier

    def carrier(self) -> Mapping[str, str]:
        """See `Trace.carrier`."""
        return self._carrier

    def told_to_stop(self, reason: CancelReason) -> None:
        """The worker knows."""

    def raised(self, kind: str, message: str, report: str) -> None:
        """See `Trace.raised`."""
        words = [text[-_MOST_CHARS:].encode(errors="replace").decode() for text in (kind, message, report)]
        with contextlib.suppress(OSError):  # the worker has gone, and so will this process
            self._voice.say(Raised(*words))

    def settled(self, outcome: Outcome) -> None:
        """The worker decides."""

    def ended(self) -> None:
        """The worker hears of it."""
