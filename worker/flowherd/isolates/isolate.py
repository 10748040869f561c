"""An isolate as its worker sees it: its connections, and its stage; this module neither forks nor kills."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd import crashpoints
from flowherd.activities_and_outcomes import Died
from flowherd.execution.awake_timer import AwakeTimer
from flowherd.execution.invoke import failed
from flowherd.isolates.channel import ChannelBroken, ChannelEnded
from flowherd.isolates.isolate_protocol import Draining, Ended, LeftBehind, Stop, TokenRefused, decode_upward
from flowherd.isolates.printed_output import Lines
from flowherd.link.link import LinkClosed
from flowherd.link.messages import BootFailed, KillIsolate, Ready
from flowherd.procfs import resident_bytes
from flowherd.sdk.redaction import mask
from flowherd.wait_status import describe_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Failed
    from flowherd.isolates.channel import Buffer, Ends, Received
    from flowherd.isolates.isolate_protocol import Message
    from flowherd.isolates.isolated_attempt import IsolatedAttempt
    from flowherd.link.link import Link

LEAVE_S = 5.0  # for leaving the app's lifespan
LOOK_EVERY_S = 0.2  # at the memory of an isolate whose activity has a limit
MARK_S = 1.0  # from an activity's end to the end of its output; whoever prints longer is killed

_log = logging.getLogger(__name__)


class Stage(Enum):
    """The stages of an isolate."""

    OPENING = "opening"  # it is being made, or makes the app ready
    IDLE = "idle"
    RUNNING = "running"
    SETTLING = "settling"  # the activity has ended, its output has not
    LEAVING = "leaving"  # it gets no more work
    GONE = "gone"  # the supervisor has reaped it


@dataclass(frozen=True, slots=True)
class IsolateRules:
    """The rules for every isolate of a worker.

    Attributes:
        max_tasks: activities after which it is replaced.
        boot_timeout_s: from its order until the app is ready in it.
        idle_s: without work, after which it ends.
        secrets: must not appear in messages or logs.
        token_refused: called with the version of the host's token that the engine has refused an isolate.

    """

    max_tasks: int = 100
    boot_timeout_s: float = 30.0
    idle_s: float = 60.0
    secrets: tuple[str, ...] = ()
    token_refused: Callable[[int], None] = lambda _: None


class Isolate:
    """An isolate; all methods must be called on its worker's loop.

    Args:
        key: its number in this worker.
        ends: its connections; closed when it is gone.
        link: has it killed, as a group.
        rules: for all.
        changed: called when its stage has become IDLE or LEAVING.

    Attributes:
        pid: 0 until the supervisor has said it.
        stage: where it stands.
        why_not: what became of it, once that is known and nothing good.

    """

    def __init__(
        self, key: int, ends: Ends, link: Link, rules: IsolateRules, changed: Callable[[Isolate], None]
    ) -> None:
        self.key = key
        self.pid = 0
        self.stage = Stage.OPENING
        self.why_not = ""
        self._ends = ends
        self._link = link
        self._rules = rules
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._tasks = 0
        self._run: IsolatedAttempt | None = None
        self._verdict: Failed | None = None  # why it was killed, where that is the activity's own fault
        self._killed_for = ""
        self._times_stopped = 0
        self._channel = ends.channel
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._ids: dict[str, Any] = {}  # of the lines that are logged of it
        self._printed = tuple(
            Lines(fd, partial(self._log_line, level, f"activity_{name}"), self._output_ended)
            for fd, level, name in (
                (ends.stdout, logging.INFO, "stdout"),
                (ends.stderr, logging.WARNING, "stderr"),
            )
        )
        self._timer: AwakeTimer | None = None
        too_late = f"it was not ready within {rules.boot_timeout_s:g} s"
        self._set_timer(rules.boot_timeout_s, partial(self._kill, too_late))

    def __repr__(self) -> str:
        return f"<Isolate {self.key} pid {self.pid} {self.stage.value}, {self._tasks} tasks>"

    def start(self, run: IsolatedAttempt) -> bool:
        """Runs an activity, whose record says so first; False when it must not begin, or cannot."""
        mark = secrets.token_hex(8)
        try:
            order = run.order(mark)
            crashpoints.reached("before_isolated")
            if not run.begin(self._stop):
                return False
            crashpoints.reached("before_begin")
            self._send(*order)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"its parameters cannot be sent to an isolate: {error}"
            run.fail("INVALID_PARAMETERS", message, retryable=False)
            return False
        crashpoints.reached("after_begin")
        self._stop_timer()
        self.stage, self._run = Stage.RUNNING, run
        self._ids = {"isolate": self.pid, **run.attempt.ids}
        for pipe in self._printed:
            pipe.expect(mark)
        self._tasks += 1
        if run.definition.max_memory_mb is not None:
            self._look_at_memory(run, run.definition.max_memory_mb)
        return True

    def send_draining(self) -> None:
        """The worker begins to drain."""
        self._send(Draining())

    def leave(self) -> None:
        """It gets no more work, and leaves the app's lifespan."""
        self.stage = Stage.LEAVING
        self._channel.end()
        self._set_timer(LEAVE_S, partial(self._kill, "it did not end in time"))
        self._changed(self)

    def close(self) -> None:
        """The worker ends, and with it this."""
        for pipe in self._printed:
            pipe.stop()
        if self.stage in {Stage.OPENING, Stage.IDLE, Stage.SETTLING}:
            self._stop_talking()  # its lifeline ends with this process: until then it may leave the app's lifespan
        else:
            self._close()

    def _send(self, message: Message, body: Buffer | None = None) -> None:
        try:
            self._channel.send(message, body)
        except OSError as error:
            self._kill(f"it hears nothing: {error.strerror}")

    def _stop(self) -> None:
        """Stops the handler: first it is cancelled, the second time the isolate is killed, since that did not help."""
        self._times_stopped += 1
        if self._run is None:
            return
        if self._times_stopped > 1:
            self._kill("its handler did not stop within its grace")
            return
        attempt = self._run.attempt
        assert attempt.cancel_reason is not None, attempt
        self._send(Stop(attempt.cancel_reason.value))

    def _kill(self, why: str) -> None:
        self._killed_for = self._killed_for or why
        with suppress(LinkClosed):  # with the supervisor its isolates end too
            self._link.send(KillIsolate(self.key))

    def started(self, pid: int) -> None:
        """It has been made."""
        self.pid = self._ids["isolate"] = pid

    def ended(self, status: int, reason: str) -> None:
        """It has been reaped, or could not be made, and why."""
        is_leaving, self.stage = self.stage is Stage.LEAVING, Stage.GONE
        while self._run is not None and not self._killed_for and self._read():
            pass  # what it sent before its end counts
        run, self._run = self._run, None
        for pipe in self._printed:
            pipe.finish()
        self._close()
        if reason:
            self.why_not = f"could not be made: {reason}"
        self.why_not = self.why_not or describe_status(status, self._killed_for)
        if self._killed_for or not is_leaving:
            _log.warning("isolate_died", extra={**self._ids, "reason": self.why_not})
        if run is not None:
            run.finish(self._verdict or Died(f"its isolate {self.why_not}", status))

    def _read(self) -> bool:
        """Handles the next message; False when there is none."""
        try:
            self._handle(*self._channel.receive())
        except BlockingIOError:
            return False
        except ChannelEnded:
            self._break_off("it had closed its channel")  # as it has where it has ended
        except (ChannelBroken, msgspec.DecodeError, OSError) as error:
            self._break_off(str(error))
        else:
            return True
        return False

    def _handle(self, message: Received, body: Received) -> None:
        match decode_upward(message):
            case TokenRefused(version):
                self._rules.token_refused(version)
            case Ready() if self.stage is Stage.OPENING:
                if not self._killed_for:  # else whatever began here would die of it
                    self._become_idle()
            case BootFailed(_, reason, report) if self.stage is Stage.OPENING:
                self.why_not = f"could not start: {reason}"
                _log.error("isolate_did_not_start", extra={"isolate": self.pid, "exception": report})
            case Ended() as ended if self._run is not None:
                self._finish(ended, body)
            case LeftBehind(reason) if self.stage is Stage.SETTLING:
                _log.info("isolate_replaced", extra={**self._ids, "isolate": self.pid, "reason": reason})
                self.leave()
            case LeftBehind() if self.stage is Stage.LEAVING:
                return  # it is to be replaced anyway
            case unexpected:
                raise ChannelBroken(f"it sent {type(unexpected).__name__} out of turn")

    def _break_off(self, why: str) -> None:
        self._loop.remove_reader(self._channel.fileno())
        if self.stage not in {Stage.LEAVING, Stage.GONE}:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        self._kill(why)
        if self.stage in {Stage.IDLE, Stage.SETTLING}:
            self.leave()

    def _finish(self, ended: Ended, output: Received) -> None:
        """The activity has ended; a slot is not held by what it has left behind."""
        run = self._run
        assert run is not None, self
        outcome = run.outcome_of(ended, output)  # before its activity is let go
        self._run = None
        if self.stage is Stage.GONE:
            pass
        elif self._times_stopped or self._killed_for or self._tasks >= self._rules.max_tasks:
            self.leave()  # also since a signal may be on its way to it, and must not hit another activity
        else:
            self.stage = Stage.SETTLING
            prints_on = f"its output has not ended {MARK_S:g} s after its activity"
            self._set_timer(MARK_S, partial(self._give_up, prints_on))
            self._output_ended()  # if it has
        run.finish(outcome)

    def _output_ended(self) -> None:
        if self.stage is Stage.SETTLING and not any(pipe.is_awaited for pipe in self._printed):
            self._become_idle()

    def _log_line(self, level: int, event: str, line: str) -> None:
        _log.log(level, event, extra={**self._ids, "line": mask(line, self._rules.secrets)})

    def _become_idle(self) -> None:
        self._set_timer(self._rules.idle_s, self.leave)
        self._ids = {"isolate": self.pid}
        self.stage = Stage.IDLE
        self._changed(self)

    def _look_at_memory(self, run: IsolatedAttempt, limit_mb: int) -> None:
        """Kills it when it has more in RAM than its activity may have; the kernel would ask nobody.

        What earlier activities left in it counts too: only a fresh isolate proves that the activity is too large.
        """
        if run is not self._run:
            return
        used_mb = resident_bytes(self.pid) >> 20 if self.pid else 0
        if used_mb <= limit_mb:
            self._loop.call_later(LOOK_EVERY_S, self._look_at_memory, run, limit_mb)
            return
        reason = f"{used_mb} MB in RAM, more than max_memory_mb = {limit_mb}"
        self._verdict = failed(
            run.attempt, "OUT_OF_MEMORY", f"its isolate had {reason}", retryable=self._tasks > 1
        )
        self._kill(f"it had {reason}")

    def _set_timer(self, delay_s: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = AwakeTimer(self._loop, delay_s, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _stop_talking(self) -> None:
        self._stop_timer()
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()

    def _close(self) -> None:
        self._stop_talking()
        self._ends.close()
