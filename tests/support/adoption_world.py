"""Random histories of adoption: real cells, keepers and adopters, any of which may die at any store; see `World`."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from worker_kit import open_segment

from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.leases.adoption import Adoptions
from flowherd.ledger import Cause, Cell, Handler, Host, Ledger, Life, RecordWriter, Standing
from flowherd.ledger.states_and_cells import WAITS_FOR_WORD
from flowherd.worker.adopter import Adopter, Offers
from flowherd.worker.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowherd.client.engine_protocol import Batch
    from flowherd.ledger import Record, Segment

SLOTS, PROCESSES, RECORDS = 4, 3, 12
Claim = tuple[str, str]  # activity and worker_id


class Killed(BaseException):
    """The actor has died at a store."""


class Held(NamedTuple):
    """What a worker has of a claim."""

    id: str
    worker_id: str
    index: int


class Worker:
    """A process: real records and a real adopter, and the least of everything else."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.segment = open_segment(world.ledger, incarnation=world.number())
        self.writer = RecordWriter(self.segment)
        self.slots = Slots(SLOTS)
        self.waiting: list[Held] = []
        self.running: list[Held] = []
        self.is_alive = True
        self.adopter = Adopter(
            Offers(world.ledger, self.segment, lambda: None),
            self.writer,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            "py",
            self.reached,
        )
        self.segment.put(Cell.LIMIT, SLOTS)
        self.segment.put(Cell.ADOPTS, 1)

    # As engine and table, for the adopter

    @staticmethod
    def read_reply(reply: bytes, worker_id: str) -> Batch:
        return decode_batch(reply, worker_id)

    @property
    def room(self) -> int:
        return self.writer.free

    def owed(self) -> list[Held]:
        return [*self.waiting, *self.running]

    # What it does

    def reached(self, _: str) -> None:
        self.world.at_a_store(self)

    def steps(self) -> list[Callable[[], None]]:
        return [self.poll, self.begin, self.complete, self.look, self.heed, self.heed, self.stop]

    def poll(self) -> None:
        most = min(self.world.rng.randint(1, 3), self.slots.free - len(self.owed()), self.room)
        if most < 1:
            return
        worker_id = f"w-{self.world.number()}"
        ids = [self.world.lost.pop() if self.world.lost else f"a-{self.world.number()}" for _ in range(most)]
        kept = self.writer.replies.keep(reply_with(ids)) if self.world.rng.random() < 0.9 else None
        for id_ in ids:
            index, _ = self.writer.claim(id_, worker_id, "act", now=self.world.now, lease_s=60.0, reply=kept)
            self.waiting.append(Held(id_, worker_id, index))
            self.world.claimed((id_, worker_id))
        if kept is not None:
            self.writer.replies.leave(kept)

    def stop(self) -> None:
        """Seldom: it drains, and goes on with what it has."""
        if self.world.rng.random() < 0.05:
            self.segment.put(Cell.ADOPTS, 0)

    def begin(self) -> None:
        if self.waiting:
            held = self.waiting.pop(self.world.rng.randrange(len(self.waiting)))
            self.writer.running(held.index, now=self.world.now, limit_s=60.0)
            self.running.append(held)
            self.world.begun((held.id, held.worker_id))

    def complete(self) -> None:
        if self.running:
            held = self.running.pop()
            self.world.completed((held.id, held.worker_id))
            self.writer.clear(held.index)

    def look(self) -> None:
        free = self.slots.reserve(len(self.owed()))  # what it holds has slots too
        try:
            self.adopter.look()
        finally:
            self.slots.give_back(free)

    def heed(self) -> None:
        for adopted in self.adopter.answered():
            self.slots.give_back(1)
            if adopted is not None:
                activity = adopted.activity
                self.waiting.append(Held(activity.activity_id, activity.worker_id, adopted.place[0]))


class World:
    """Processes, a keeper, and an engine that complains at once.

    Of each claim it counts what was begun, completed and failed: begun at most once; failed only if nobody can go on
    with it; and in the end one of completed and failed. A claim that the keeper has found lost is never begun, and its
    activity comes again with another claim.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.ledger = Ledger(processes=PROCESSES, records=RECORDS)
        self._numbers = 0
        self.claims: dict[Claim, str] = {}
        self.lost: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self.settling: dict[int, asyncio.Task[None]] = {}
        self.is_calm = False
        self._depth = 0
        self.keeper = self._new_keeper()

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    # The engine

    def claimed(self, claim: Claim) -> None:
        self.claims[claim] = "claimed"

    def begun(self, claim: Claim) -> None:
        assert self.claims[claim] == "claimed", f"{claim} begins, and was {self.claims[claim]}"
        self.claims[claim] = "begun"

    def completed(self, claim: Claim) -> None:
        assert self.claims[claim] == "begun", f"{claim} is completed, and was {self.claims[claim]}"
        self.claims[claim] = "completed"

    def failed(self, claim: Claim, *, had_begun: bool) -> None:
        before = self.claims[claim]
        assert before in {"failed", "lost", "begun" if had_begun else "claimed"}, (
            f"{claim} is failed, and was {before}"
        )
        if before != "lost":
            self.claims[claim] = "failed"
            self.counts["begun" if had_begun else "not begun"] += 1

    # The keeper

    def _new_keeper(self) -> Adoptions:
        return Adoptions(self.ledger, lambda _: None, lambda: self.now, lambda _: self.at_a_store(None))

    def scan(self) -> None:
        """As `LeaseKeeper.scan`: what is decided first, then what has ended."""
        self.keeper.attend()
        for segment in self.ledger.segments:
            if segment.life is Life.ENDED and segment.number not in self.settling:
                work = self._settle(self.keeper, segment)
                self.settling[segment.number] = asyncio.get_running_loop().create_task(work)

    async def _settle(self, keeper: Adoptions, segment: Segment) -> None:
        try:
            held = [(segment, record) for record in segment.records()]
            keeper.open(held)
            owed = [record for _, record in held if record.is_owed]
            await asyncio.gather(*(self._settle_one(keeper, segment, record) for record in owed))
            self.at_a_store(None)
            self.ledger.absorb(segment)
            del self.settling[segment.number]
        except Killed:
            self.kill_keeper()

    async def _settle_one(self, keeper: Adoptions, segment: Segment, record: Record) -> None:
        if await keeper.adopts(segment, record):
            self.counts["adopted"] += 1
            return
        if segment.standing(record.index, record.sequence) is Standing.SETTLED or keeper is not self.keeper:
            return
        self.at_a_store(None)
        self.failed((record.activity_id, record.worker_id), had_begun=record.is_at_work)
        self.at_a_store(None)
        segment.judge(record, Standing.SETTLED, 0.0)

    def lose(self) -> None:
        """A heartbeat finds that the engine has given a claim away that waits to be adopted, or to be begun then."""
        found = [
            (segment, record)
            for segment in self.ledger.segments
            if segment.life is not Life.FREE
            for record in segment.records()
            if _waits_for_adoption(segment, record)
        ]
        if found:
            segment, record = self.rng.choice(found)
            segment.judge(record, Standing.GONE, 0.0)
            self.claims[record.activity_id, record.worker_id] = "lost"
            self.lost.add(record.activity_id)
            self.counts["lost"] += 1

    def kill_keeper(self) -> None:
        """Everything that it was about to do ends with it; another one begins."""
        self.counts["keepers killed"] += 1
        for task in self.settling.values():
            if task is not asyncio.current_task():
                task.cancel()
        self.settling = {}
        self.keeper = self._new_keeper()

    # What happens

    def at_a_store(self, actor: Worker | None) -> None:
        """The actor may die here, and others may go on; None for the keeper."""
        if self.is_calm:
            return
        if self.rng.random() < 0.04:
            raise Killed
        if not self._depth and self.rng.random() < 0.4:
            self._depth += 1
            try:
                for _ in range(self.rng.randint(1, 4)):
                    self._step(actor)
            finally:
                self._depth -= 1

    def _step(self, beside: Worker | str | None = "") -> None:
        living = [worker for worker in self.workers if worker.is_alive and worker is not beside]
        chance = self.rng.random()
        if chance < 0.06 and living:
            self.rng.choice(living).is_alive = False
        elif chance < 0.12:
            self.reap()
        elif chance < 0.2:
            self.spawn()
        elif chance < 0.22 and beside is not None and not self._depth:
            self.kill_keeper()
        elif chance < 0.4 and beside is not None:
            self._as_keeper()
        elif chance < 0.42 and beside is not None:
            self.lose()
        elif chance < 0.45 and living:
            self._mislead(self.rng.choice(living))
        elif chance < 0.5:
            self.now += self.rng.choice((0.001, 0.06, 0.06, 2.0))
        elif living:
            worker = self.rng.choice(living)
            try:
                self.rng.choice(worker.steps())()
            except Killed:
                worker.is_alive = False

    def _mislead(self, worker: Worker) -> None:
        """Hints bind nobody: one may be old, or meant for several."""
        for number in self.ledger.segments.ended():
            for index in range(RECORDS):
                self.ledger.segments[number].adoption.offer(index, worker.segment.life_number)
        self.ledger.put(Host.OFFERS, self.ledger.get(Host.OFFERS) + 1)

    def _as_keeper(self) -> None:
        try:
            self.scan()
        except Killed:
            self.kill_keeper()

    def reap(self) -> None:
        """The supervisor notes the ends that nobody has noted."""
        for worker in self.workers:
            if not worker.is_alive and worker.segment.life is Life.LIVE and worker in self.workers:
                worker.segment.end(Cause.SIGNAL, 9)
        self.workers = [worker for worker in self.workers if worker.is_alive]

    def spawn(self) -> None:
        """A new process where one is missing."""
        if len(self.workers) < PROCESSES and self.ledger.free_segment() is not None:
            self.workers.append(Worker(self))

    async def run(self, steps: int = 250) -> None:
        """A history, and then a quiet end in which everything has to come out."""
        for _ in range(steps):
            self._step()
            await _settled_tasks()
        self.is_calm = True
        for _ in range(400):
            self.reap()
            self.spawn()
            self.scan()
            await _settled_tasks()
            for worker in self.workers:
                for step in (worker.look, worker.heed, worker.begin, worker.complete):
                    step()
            self.now += 0.06
        left = {claim: state for claim, state in self.claims.items() if state in {"claimed", "begun"}}
        assert not left, f"lost: {left}"
        assert all(segment.life is not Life.ENDED for segment in self.ledger.segments), (
            "a segment is not freed"
        )
        for worker in self.workers:
            assert not any(worker.segment.states), "a record is left"
            assert "[0 of" in repr(worker.writer.replies), worker.writer.replies
            assert worker.slots.free == SLOTS, worker.slots


def reply_with(ids: Iterable[str], name: str = "act") -> bytes:
    """The body of a reply to a poll that brings these activities."""
    items: list[dict[str, Any]] = [
        {
            "activity_id": id_,
            "workflow_id": "wf",
            "activity_key": "step",
            "worker": "py",
            "activity_name": name,
            "parameters": {"of": id_},
        }
        for id_ in ids
    ]
    return json.dumps({"activities": items}).encode()


def _waits_for_adoption(segment: Segment, record: Record) -> bool:
    """True for what may still be adopted, and for what its adopter does not know to be its own yet."""
    if not record.is_held or record.handler > Handler.ADMITTED:
        return False
    if segment.life is Life.ENDED:
        return not segment.adoption.decision(record)
    return segment.states[record.index] == WAITS_FOR_WORD


async def _settled_tasks() -> None:
    for _ in range(4):
        await asyncio.sleep(0)
