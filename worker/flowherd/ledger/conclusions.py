"""Verdicts that the host counts: each once, wherever the keeper dies between the two; it judges nobody by itself.

The keeper is the only writer, and one keeper at a time. As in `totals`, verdict and new count are written down first,
then made binding in one store; whoever comes next carries out what is binding, which changes nothing the second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd import crashpoints
from flowherd.ledger.layout import Host, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger.segment import Record, Segment

_INDEX_BITS, _STANDING_BITS = 32, 2
_MOST = 2**63


class Conclusions:
    """Writes a verdict into its segment and its count into a cell of the host.

    Args:
        cells: the host's, as many as `Host` names.
        segments: all of the ledger.

    """

    def __init__(self, cells: memoryview[int] | list[int], segments: Sequence[Segment]) -> None:
        self._cells = cells
        self._segments = segments

    def conclude(self, counter: Host, segment: Segment, record: Record, standing: Standing) -> None:
        """Judges a record and adds one to `counter`, once however often it is asked for."""
        crashpoints.reached("before_conclusion")
        self._finish()
        if segment.standing(record.index, record.sequence) is standing:
            return
        cells = self._cells
        cells[Host.CONCLUDED_AT] = segment.number << _INDEX_BITS | record.index
        cells[Host.COUNTER] = counter
        cells[Host.COUNT] = (cells[counter] + 1) % _MOST
        cells[Host.CONCLUDING] = record.sequence << _STANDING_BITS | standing
        crashpoints.reached("amid_conclusion")
        self._finish()
        crashpoints.reached("after_conclusion")

    def _finish(self) -> None:
        """What is binding, by this keeper or the one before."""
        cells = self._cells
        if not cells[Host.CONCLUDING]:
            return
        sequence, standing = divmod(cells[Host.CONCLUDING], 1 << _STANDING_BITS)
        number, index = divmod(cells[Host.CONCLUDED_AT], 1 << _INDEX_BITS)
        if (
            number >= len(self._segments)
            or index >= self._segments[number].capacity
            or not _is_counter(cells)
        ):
            cells[Host.CONCLUDING] = 0  # no keeper has written that
            return
        segment = self._segments[number]
        record = segment.record(index)
        if record is not None and record.sequence == sequence:  # else nobody will ever ask about it
            segment.judge(record, Standing(standing), segment.last_ok(index, sequence))
        cells[cells[Host.COUNTER]] = cells[Host.COUNT]
        cells[Host.CONCLUDING] = 0


def _is_counter(cells: memoryview[int] | list[int]) -> bool:
    return cells[Host.COUNTER] in {Host.SETTLED, Host.LEASES_LOST, Host.UNSETTLED}
