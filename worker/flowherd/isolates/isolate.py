"""One isolate as its worker sees it: its connections, and where it stands; it neither forks nor kills."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from flowherd.execution.awake_timer import AwakeTimer
from flowherd.exit_status import describe_status
from flowherd.isolates.attempt import checked_output
from flowherd.isolates.channel import Channel
from flowherd.isolates.frames import FrameError, StreamEnded
from flowherd.isolates.isolate_protocol import (
    MAX_UP_BYTES,
    Cancel,
    End,
    Logged,
    NotOpened,
    Opened,
    Save,
    Saying,
    Shutdown,
    Spoiled,
    Succeeded,
    Unsuccessful,
    decode_upward,
)
from flowherd.isolates.printing import Printing, replay
from flowherd.isolates.reading import PAUSE_S, Reading, Share, Turn
from flowherd.isolates.terms import IsolateHost, IsolateRules, Stage
from flowherd.model import Died
from flowherd.procfs import resident_bytes
from flowherd.sdk.output import MAX_OUTPUT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.isolates.attempt import IsolateRun
    from flowherd.isolates.ends import OurEnds
    from flowherd.model import Failed

END_S = 5.0  # for leaving the app's lifespan
LOOK_EVERY_S = 0.2  # at the memory of an isolate whose activity has a limit
SETTLE_S = (
    1.0  # for logging what an activity has printed, until its isolate is killed: somebody prints for ever
)
_MOST_SETTLINGS = 500  # pauses until the rest of what a process has printed is given up

_log = logging.getLogger(__name__)


class Isolate:
    """One isolate; all methods must be called on its worker's loop.

    Args:
        key: its number in this worker.
        ends: its connections; closed when it is gone.
        host: ends it.
        rules: for all.
        changed: called when its stage has become IDLE or ENDING.

    Attributes:
        pid: 0 until the supervisor has said it.
        stage: where it stands.
        idle_since: loop time.
        why_not: what became of it, once that is known and nothing good.

    """

    def __init__(
        self,
        key: int,
        ends: OurEnds,
        host: IsolateHost,
        rules: IsolateRules,
        changed: Callable[[Isolate], None],
    ) -> None:
        self.key = key
        self.pid = 0
        self.stage = Stage.OPENING
        self.idle_since = 0.0
        self.why_not = ""
        self._ends = ends
        self._host = host
        self._rules = rules
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._tasks = 0
        self._run: IsolateRun | None = None
        self._verdict: Failed | None = None  # why it was killed, where that is the activity's own fault
        self._killed_for = ""
        self._was_told = False
        self._times_stopped = 0
        self._is_broken = False
        self._spoiled = ""  # what its last activity has left behind
        self._settle_by = 0.0
        self._before: Succeeded | Save | None = None  # what the next frame belongs to
        self._share = Share()  # of the log's lines; what it prints has another one, so that neither starves
        self._channel = Channel(ends.channel, MAX_OUTPUT_BYTES)
        self._listening = Reading(ends.channel.fileno(), self._turn)
        self._printing = Printing(ends.stdout, ends.stderr, rules.secrets)
        self._timer: AwakeTimer | None = None
        self._set_timer(rules.boot_timeout_s, self._did_not_open)

    def __repr__(self) -> str:
        return f"<Isolate {self.key} pid {self.pid} {self.stage.value}, {self._tasks} tasks>"

    def start(self, run: IsolateRun) -> bool:
        """Runs an activity, whose record says so first; False when it must not begin any more.

        TypeError, ValueError or OverflowError when its parameters cannot be sent.
        """
        order = run.order()
        if not run.begin(self._stop):
            return False
        self._channel.say(*order)
        self.stage, self._run = Stage.RUNNING, run
        self._printing.ids = {"isolate": self.pid, **run.ids}
        self._tasks += 1
        if run.definition.max_memory_mb is not None:
            self._look_at_memory(run, run.definition.max_memory_mb)
        return True

    def say_shutdown(self) -> None:
        """The worker begins to drain."""
        self._channel.say(Shutdown())

    def end(self) -> None:
        """It gets no more work, and leaves the app's lifespan."""
        self._was_told = True
        self.stage = Stage.ENDING
        self._channel.say(End())
        self._set_timer(END_S, lambda: self._kill("it did not end in time"))
        self._changed(self)

    def close(self) -> None:
        """The worker ends, and with it this."""
        if self.stage in {Stage.OPENING, Stage.IDLE, Stage.SETTLING}:
            self._channel.say(End())
        self._close()

    def _stop(self) -> None:
        """What its activity's run calls: first for cancelling the handler, then because that did not help."""
        self._times_stopped += 1
        if self._times_stopped > 1 or self._run is None:
            self._kill("its handler did not stop within its grace")
            return
        self._channel.say(Cancel(self._run.ids["activity_id"], self._run.cancel_reason))
        self._host.stop(self.key)

    def _kill(self, why: str = "") -> None:
        self._killed_for = self._killed_for or why
        self._host.kill(self.key)

    def started(self, pid: int) -> None:
        """It has been made."""
        self.pid = self._printing.ids["isolate"] = pid

    def ended(self, status: int, reason: str) -> None:
        """It has been reaped, or could not be made, and why."""
        run, self._run = self._run, None
        self.stage = Stage.GONE
        self._listening.stop()
        self._channel.close()
        if reason:
            self.why_not = f"could not be made: {reason}"
        self.why_not = self.why_not or describe_status(status, self._killed_for)
        self._set_timer(0.0, self._settle_for_good)
        if not self._was_told:
            _log.warning("isolate_died", extra={**self._printing.ids, "reason": self.why_not})
        if run is not None:
            run.finish(self._verdict or Died(f"its isolate {self.why_not}"))

    def _turn(self) -> Turn:
        if self._share.left <= 0:
            return Turn.PAUSE
        try:
            for frame in self._channel.read():
                self._heed(frame)
        except StreamEnded:
            self._break_off("")  # it has ended, or goes on without us
            return Turn.OVER
        except (FrameError, msgspec.DecodeError, RecursionError, OSError) as error:
            self._break_off(f"was killed: {error}")
            return Turn.OVER
        return Turn.AGAIN

    def _heed(self, frame: bytes | bytearray) -> None:
        if self._before is not None:
            before, self._before = self._before, None
            self._heed_body(before, frame)
            return
        if len(frame) > MAX_UP_BYTES:
            raise FrameError(f"it sent a message of {len(frame)} bytes")
        match decode_upward(frame):
            case Logged() as record:
                self._share.take()
                replay(record, self._printing.ids, self._rules.secrets)
            case Opened() if self.stage is Stage.OPENING:
                self._become_idle()
            case NotOpened(message, report):
                self.why_not = f"could not start: {message}"
                _log.error("isolate_did_not_start", extra={"isolate": self.pid, "exception": report})
            case Succeeded() | Save() as before:
                self._before = before
            case Spoiled(reason) if self._run is not None:
                self._spoiled = reason
            case Unsuccessful() as saying:
                self._finish().failed(saying)
            case saying:
                if self._run is None:
                    return  # something that a handler has left behind
                self._run.heed(saying, self._answer)

    def _heed_body(self, before: Succeeded | Save, frame: bytes | bytearray) -> None:
        if isinstance(before, Succeeded):
            output = checked_output(frame)  # before its activity is let go
            self._finish().succeeded(output)
        elif self._run is not None:
            self._run.save(before, bytes(frame), self._answer)

    def _break_off(self, why: str) -> None:
        self.why_not = self.why_not or why
        self._is_broken = True
        self._kill("it had closed its channel")
        if self.stage is Stage.IDLE:
            self.stage = Stage.ENDING
            self._changed(self)

    def _finish(self) -> IsolateRun:
        """The activity of this isolate has ended: whatever comes now belongs to nobody."""
        run, self._run = self._run, None
        if run is None:
            raise FrameError("it reported what nobody had asked for")
        if self.stage is Stage.RUNNING:
            self.stage = Stage.SETTLING
            self._settle_by = self._loop.time() + SETTLE_S
            self._set_timer(0.0, self._settle)
        return run

    def _answer(self, saying: Saying) -> None:
        if self.stage is not Stage.GONE:
            self._channel.say(saying)

    def _settle(self) -> None:
        """Logs what the activity has printed before another one can print."""
        is_settled = self._printing.is_settled()
        if not is_settled and self._loop.time() < self._settle_by:
            self._set_timer(PAUSE_S, self._settle)
            return
        if is_settled:
            self._printing.ids = {"isolate": self.pid}
        else:
            self._spoiled = f"it prints {SETTLE_S:g} s after its activity has ended"
            self._kill()
        if self._spoiled:
            _log.info("isolate_replaced", extra={"isolate": self.pid, "reason": self._spoiled})
        if self._spoiled or self._is_broken or self._times_stopped or self._tasks >= self._rules.max_tasks:
            self.end()  # also since a SIGTERM may be on its way to it, and must not hit another activity
        else:
            self._become_idle()

    def _settle_for_good(self, tries: int = _MOST_SETTLINGS) -> None:
        """The same for one that has ended, unless somebody it has left behind prints on and on."""
        if tries and not self._printing.is_settled():
            self._set_timer(PAUSE_S, lambda: self._settle_for_good(tries - 1))
        else:
            self._close()

    def _become_idle(self) -> None:
        self._set_timer(None)
        self.stage = Stage.IDLE
        self.idle_since = self._loop.time()
        self._changed(self)

    def _did_not_open(self) -> None:
        self.why_not = f"was not ready within {self._rules.boot_timeout_s:g} s"
        self._kill()

    def _look_at_memory(self, run: IsolateRun, limit_mb: int) -> None:
        """Kills it when it has more in RAM than its activity may have; the kernel would ask nobody.

        What earlier activities left in it counts too: only a fresh isolate proves that the activity is too large.
        """
        if run is not self._run:
            return
        used_mb = resident_bytes(self.pid) >> 20 if self.pid else 0
        if used_mb <= limit_mb:
            self._loop.call_later(LOOK_EVERY_S, self._look_at_memory, run, limit_mb)
            return
        words = f"its isolate had {used_mb} MB in RAM, more than max_memory_mb = {limit_mb}"
        self._verdict = run.failure("OUT_OF_MEMORY", words, retryable=self._tasks > 1)
        self._kill()

    def _set_timer(self, delay_s: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None or then is None else AwakeTimer(self._loop, delay_s, then)

    def _close(self) -> None:
        self._set_timer(None)
        self._listening.stop()
        self._printing.stop()
        self._channel.close()
        self._ends.close()
