"""A decision under way: the state and the actions so far."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core.actions import Action, Exit, Kill, Level, Note, SetSlots, Spawn
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.state import Mode, Phase, ProcessState, State

if TYPE_CHECKING:
    from flowherd.end_cause import Cause
    from flowherd.exit_codes import Exit as Code
    from flowherd_supervisor.core.restart_backoff import Rng
    from flowherd_supervisor.core.state import Isolate


class Transition:
    """Collects the new state and the actions that follow from one event."""

    def __init__(self, state: State, now: float, rng: Rng) -> None:
        self.state = state
        self.now = now
        self.rng = rng
        self.actions: list[Action] = []

    def note(self, event: str, level: Level = Level.INFO, report: str = "", **fields: object) -> None:
        """Adds a line for the log."""
        self.actions.append(Note(event, fields, level, report))

    def put(self, process: ProcessState) -> None:
        """Stores a process in the state."""
        self.state = self.state.with_process(process)

    def blame(self, code: Code) -> None:
        """Sets the exit code, unless an earlier event has set it to an error."""
        self.state = replace(self.state, exit_code=self.state.exit_code or code)

    def count(self, process: ProcessState, cause: Cause) -> None:
        """Counts the replacement of a worker."""
        of_process = self.state.causes.get(process.number, {})
        of_process = {**of_process, cause: of_process.get(cause, 0) + 1}
        self.state = replace(self.state, causes={**self.state.causes, process.number: of_process})

    def spawn(self, process: ProcessState) -> None:
        """Orders the process's next incarnation; a worker waits if its zygote is not ready yet."""
        assert not process.alive, process
        zygotes = self.state.zygotes
        is_worker = process.number not in {KEEPER, ZYGOTE}
        if is_worker and zygotes.awaited:
            self.put(replace(process, phase=Phase.WAITING, pid=None, retry_at=inf))
            return
        maker = zygotes.ready.incarnation if is_worker and zygotes.wanted and zygotes.ready else 0
        incarnation = self.state.incarnations.get(process.number, 0) + 1
        self.state = replace(
            self.state, incarnations={**self.state.incarnations, process.number: incarnation}
        )
        process = replace(
            process,
            phase=Phase.STARTING,
            incarnation=incarnation,
            pid=None,
            started_at=self.now,
            ready_at=None,
            retry_at=inf,
            kill_at=inf,
            ends_for=None,
            ceiling=process.limit,
            n=0,
            applied=0,
            held=0,
            workers=(self.state.plan.threads or 1) if is_worker else 1,
            maker=maker,
            killed_for="",
        )
        self.put(process)
        self.actions.append(Spawn(process.number, process.incarnation, process.limit, maker, process.workers))

    def retry_in(self, process: ProcessState, wait_s: float) -> None:
        """Schedules the next incarnation in `wait_s` seconds."""
        self.put(replace(process, phase=Phase.BACKOFF, pid=None, retry_at=self.now + wait_s))

    def grant(self, process: ProcessState, limit: int) -> None:
        """Changes a process's number of slots; one that is being forked gets its order once it exists."""
        if not process.alive:
            self.put(replace(process, limit=limit, ceiling=limit))
        elif process.pid is not None:
            n = process.n + 1
            self.put(replace(process, limit=limit, ceiling=max(process.ceiling, limit), n=n))
            self.actions.append(SetSlots(process.number, process.incarnation, limit, n))

    def zygote_forks(self, maker: int) -> None:
        """Records that zygote `maker` has forked a process; 0 is the supervisor."""
        if maker:
            zygotes = replace(self.state.zygotes, failed_in_row=0, forked_at=self.now)
            self.state = replace(self.state, zygotes=zygotes)

    def put_isolate(self, isolate: Isolate) -> None:
        """Stores an isolate in the state."""
        others = (one for one in self.state.isolates if one.names != isolate.names)
        self.state = replace(self.state, isolates=(*others, isolate))

    def drop_isolate(self, isolate: Isolate) -> None:
        """Removes an isolate from the state."""
        kept = tuple(one for one in self.state.isolates if one.names != isolate.names)
        self.state = replace(self.state, isolates=kept)

    def kill(self, process: ProcessState, why: str, cause: Cause | None = None) -> None:
        """Orders SIGKILL once, with the reason; a process that is being forked is killed as soon as it exists.

        Args:
            process: the process.
            why: the reason in words.
            cause: the cause of its end, unless that was decided on before.

        """
        if not process.alive or process.phase is Phase.DYING:
            return
        self.put(replace(process, phase=Phase.DYING, killed_for=why, ends_for=process.ends_for or cause))
        if process.pid is not None:
            self.actions.append(Kill(process.number, process.incarnation))

    def leave(self) -> None:
        """Orders the supervisor's exit."""
        self.state = replace(self.state, mode=Mode.ENDED, deadline=inf)
        self.actions.append(Exit(self.state.exit_code))
