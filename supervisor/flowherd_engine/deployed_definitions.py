"""Deployed definitions in the database, with a cache of parsed ones (protocol.md §11.1)."""

import hashlib
import sqlite3
from typing import NamedTuple

from .clock import version_at
from .definitions import Definition, restore

_KEPT = 256


class Deployed(NamedTuple):
    """A stored version."""

    seq: int
    name: str
    version: str
    created_s: float


class DeployedDefinitions:
    """Stores and finds definitions; runs on the database thread only."""

    def __init__(self) -> None:
        self._parsed: dict[int, Definition] = {}

    def deploy(
        self, connection: sqlite3.Connection, definition: Definition, now_s: float
    ) -> tuple[Deployed, bool]:
        """Stores `definition` unless an equal one exists; the flag is True if it is new (protocol.md §11.1)."""
        digest = hashlib.sha256(definition.document).digest()
        row = connection.execute(
            "SELECT seq, name, version, created_s FROM definitions WHERE name = ? AND digest = ?",
            (definition.name, digest),
        ).fetchone()
        if row is not None:
            return Deployed(*row), False
        created_s = self._free_moment(connection, definition.name, now_s)
        version = version_at(created_s)
        cursor = connection.execute(
            "INSERT INTO definitions (name, version, digest, document, activity_count, created_s)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (definition.name, version, digest, definition.document, len(definition.steps), created_s),
        )
        return Deployed(cursor.lastrowid or 0, definition.name, version, created_s), True

    @staticmethod
    def _free_moment(connection: sqlite3.Connection, name: str, now_s: float) -> float:
        """Returns a time whose version is not taken: two deploys in one microsecond get neighbouring versions."""
        moment_s = now_s
        while connection.execute(
            "SELECT 1 FROM definitions WHERE name = ? AND version = ?", (name, version_at(moment_s))
        ).fetchone():
            moment_s += 1e-6
        return moment_s

    def find(self, connection: sqlite3.Connection, name: str, version: str | None) -> Deployed | None:
        """Returns the given version, or the one deployed last."""
        row = connection.execute(
            "SELECT seq, name, version, created_s FROM definitions"
            " WHERE name = :name AND (:version IS NULL OR version = :version) ORDER BY seq DESC LIMIT 1",
            {"name": name, "version": version},
        ).fetchone()
        return None if row is None else Deployed(*row)

    def load(self, connection: sqlite3.Connection, seq: int) -> Definition:
        """Returns the parsed definition of a stored version."""
        definition = self._parsed.get(seq)
        if definition is None:
            (document,) = connection.execute(
                "SELECT document FROM definitions WHERE seq = ?", (seq,)
            ).fetchone()
            definition = restore(document)
            if len(self._parsed) >= _KEPT:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[seq] = definition
        return definition
