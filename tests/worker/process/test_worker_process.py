"""The last message of a worker process."""

from __future__ import annotations

from structlog.testing import capture_logs

from flowherd.link.bounded_messages import stopped
from flowherd.link.link import Link
from flowherd.process.worker_process import send_last


def test_a_last_message_that_nobody_takes_is_not_another_line() -> None:
    """The reader of the link has logged `supervisor_gone` already."""
    ours, theirs = Link.pair()
    theirs.close()
    with capture_logs() as logs:
        send_last(ours, stopped(0, ()))
    ours.close()
    assert logs == []
