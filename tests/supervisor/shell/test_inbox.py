"""The supervisor's only wait: signals, messages and timeouts; signals are sent to this process."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from math import inf
from random import Random
from typing import TYPE_CHECKING

import pytest

from flowherd.link.link import Link
from flowherd.link.messages import Ready
from flowherd_supervisor.shell.inbox import HEARD, Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator

CEILING_S = 10.0


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def send(number: signal.Signals) -> None:
    """Sends a signal to this thread: a test runner has other threads, unlike the supervisor, which could receive it."""
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("number", HEARD, ids=lambda number: number.name)
def test_every_signal_of_the_interface_wakes_and_is_returned(inbox: Inbox, number: signal.Signals) -> None:
    """None of them ends or stops the supervisor by itself."""
    send(number)
    assert number in inbox.wait(CEILING_S)


def test_p15_the_last_of_a_thousand_signals_is_received_too(inbox: Inbox) -> None:
    """Faults P15: a dropped CONT would leave the host paused."""
    for _ in range(1000):
        send(signal.SIGUSR1)
    send(signal.SIGCONT)
    heard = inbox.wait(CEILING_S)
    assert (len(heard), heard[-1]) == (1001, signal.SIGCONT)


def test_simultaneous_signals_are_returned_in_the_kernels_order(inbox: Inbox) -> None:
    """Faults P15: an interrupting handler would write first, so that a CONT right after a TSTP leaves the host paused.

    The kernel delivers pending signals in order of their numbers.
    """
    together = {signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, together)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        send(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, together)
    assert inbox.wait(CEILING_S) == [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM]


def test_a_signal_before_the_wait_is_not_lost(inbox: Inbox) -> None:
    """The race that `sigsuspend` was made for."""
    send(signal.SIGHUP)
    send(signal.SIGTERM)
    assert {signal.SIGHUP, signal.SIGTERM} <= set(inbox.wait(inf))
    assert signal.SIGTERM not in inbox.wait(0.0)


def test_p15_hundreds_of_random_signals_are_all_returned_in_order(inbox: Inbox) -> None:
    """Faults P15: handlers only write to the wakeup descriptor."""
    rng = Random(15)
    kinds = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1]
    sent = [rng.choice(kinds) for _ in range(500)]
    told: list[signal.Signals] = []
    for number in sent:
        send(number)
        if rng.random() < 0.3:
            told += inbox.wait(0.0)
    told += inbox.wait(0.0)
    assert [number for number in told if number in kinds] == sent


def test_more_signals_than_the_pipe_holds_do_not_block(inbox: Inbox) -> None:
    """A storm may lose signals, but must neither hang nor raise."""
    for _ in range(3000):
        send(signal.SIGUSR1)
    assert Counter(inbox.wait(0.0))[signal.SIGUSR1] > 100


def test_a_message_wakes_until_it_is_read(inbox: Inbox) -> None:
    """The inbox does not read messages; the supervisor reads them in its own order."""
    ours, theirs = Link.pair()
    inbox.watch(ours)
    theirs.send(Ready())
    started = time.monotonic()
    assert inbox.wait(CEILING_S) == inbox.wait(CEILING_S) == []
    assert time.monotonic() - started < CEILING_S
    ours.close()
    theirs.close()


def test_a_link_at_its_end_wakes_no_more_once_forgotten(inbox: Inbox) -> None:
    """Otherwise the supervisor would spin until the reap; forgetting twice is no error."""
    ours, theirs = Link.pair()
    inbox.watch(ours)
    theirs.close()
    inbox.wait(CEILING_S)
    inbox.forget(ours)
    inbox.forget(ours)
    started = time.monotonic()
    inbox.wait(0.05)
    assert time.monotonic() - started >= 0.04
    ours.close()


@pytest.mark.parametrize("timeout_s", [0.0, -5.0])
def test_a_deadline_in_the_past_returns_at_once(inbox: Inbox, timeout_s: float) -> None:
    """The state's next deadline may have passed before the wait."""
    started = time.monotonic()
    assert inbox.wait(timeout_s) == []
    assert time.monotonic() - started < CEILING_S


def test_closing_gives_signals_back() -> None:
    """`flowherd dev` and tests continue after it."""
    before = {number: signal.getsignal(number) for number in HEARD}
    inbox = Inbox()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    inbox.close()
    assert {number: signal.getsignal(number) for number in HEARD} == before
