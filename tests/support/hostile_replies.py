"""Seeded generators of replies that no engine should send."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import UUID

# fmt: off - tables read better as they are
PIECES = [
    "a",
    "0",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "\ud800",
    "\udfff",
    "\U0001f411",
    "é",
    "e\u0301",
    "\\",
    "\\u0000",
    '"',
    "'",
    "{{INPUT.x}}",
    "%s",
    "%00",
    "../",
    "/",
    "..",
    ":",
    "?",
    "#",
    "&",
    ";",
    "|",
    "$(id)",
    "<script>",
    "NaN",
    "null",
    "true",
    "-0",
    "1e999",
]
NUMBERS = [0, -1, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**40, 1e308, 5e-324, -0.0]
# Sent without `json.dumps`, since no JSON library would write them.
RAW_VALUES = [
    b"1e999",
    b"-1e999",
    b"9" * 5000,
    b"1" + b"0" * 400,
    b"NaN",
    b"Infinity",
    b"-",
    b"01",
    b"+1",
    b".5",
    b"0x1",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u0000"',
    b'"\xff\xfe"',
    b'"\x01"',
    b'"\\x41"',
    b"'a'",
    b"nul",
    b"1 2",
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b"[1,]",
    b'{"a":1,}',
    b'{"a"}',
    b"{1:2}",
]
IDS = [
    "",
    ".",
    "..",
    "../../oauth/token",
    "a/b",
    "a?b",
    "a b",
    "a\n",
    "%2e",
    "\0",
    "x" * 200,
    7,
    None,
    [],
    {},
]
FIELDS = [
    "workflow_id",
    "activity_key",
    "worker",
    "activity_name",
    "parameters",
    "settings",
    "timeout_seconds",
    "output_definitions",
    "signal_data",
    "activity_id",
    "unknown",
]
STATUSES = [200, 201, 204, 301, 307, *range(400, 432), 451, 499, *range(500, 512), 520, 599, 999]
WISHES = ["", "0", "-1", "1e400", "nan", "inf", "9" * 30, "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "\0", "²"]
STARTS = [b"", b"<html>", b"[]", b"{}", b"null", b"\xef\xbb\xbf{}", b"\x1f\x8b\x08", b"\0"]
# fmt: on


class Chance(random.Random):
    """A seeded source of hostile text and JSON."""

    def text(self, most: int = 6) -> str:
        """Returns any text that a Python string can hold."""
        return "".join(self.choices(PIECES, k=self.randint(0, most))) * self.choice([1, 1, 1, 1, 50])

    def tame_text(self) -> str:
        """Returns text that JSON and the engine can hold."""
        return self.text().encode("utf-8", "ignore").decode().replace("\0", "")

    def json(self, depth: int = 3) -> Any:
        """Returns any well-formed JSON value."""
        kind = self.randrange(8 if depth else 5)
        if kind >= 6:
            return {self.tame_text(): self.json(depth - 1) for _ in range(self.randint(0, 3))}
        if kind == 5:
            return [self.json(depth - 1) for _ in range(self.randint(0, 3))]
        return (None, self.random() < 0.5, self.choice(NUMBERS), self.tame_text(), self.uniform(-1e9, 1e9))[
            kind
        ]


def an_item(number: int) -> bytes:
    """Returns a valid item of a poll reply."""
    item = {
        "activity_id": str(UUID(int=number)),
        "workflow_id": str(UUID(int=900)),
        "activity_key": "step",
        "worker": "py-std",
        "activity_name": "good",
        "parameters": {"n": number},
        "settings": {"cache": False},
        "timeout_seconds": None,
    }
    return json.dumps(item).encode()


class Replies(Chance):
    """Generates replies to polls and reports."""

    def bad_item(self) -> bytes:
        """Returns an element of a poll reply that is not an activity, or an odd one."""
        odd = json.loads(an_item(0)) | {
            "activity_id": f"odd-{self.getrandbits(60):x}",
            "activity_name": "odd",
        }
        whole = json.dumps(odd).encode()
        match self.randrange(6):
            case 0:
                return json.dumps(self.json()).encode()
            case 1:
                return self.choice(RAW_VALUES)
            case 2:
                return whole[:-1] + b',"%b":%b}' % (self.choice(FIELDS).encode(), self.choice(RAW_VALUES))
            case 3:
                return whole[:-1] + b"," + whole[1:]  # with every key twice
        if self.random() < 0.3:
            odd["activity_id"] = self.choice(IDS)
        for name in self.sample(FIELDS[:-2], self.randint(1, 4)):
            odd[name] = self.json()
            if self.random() < 0.3:
                del odd[name]
        return json.dumps(odd).encode()

    def batch(self, good: list[bytes]) -> bytes:
        """Returns a poll reply with all of `good` and one to three bad items between them."""
        items = [*good, *(self.bad_item() for _ in range(self.randint(1, 3)))]
        self.shuffle(items)
        tail = self.choice([b"", b',"count":-1', b',"count":"x"', b',"next":{"a":[]}'])
        return b'{"activities":[%b]%b}' % (self.choice([b",", b" ,\n "]).join(items), tail)

    def garbage(self) -> bytes:
        """Returns a body that is not a poll reply."""
        whole = self.batch([])
        cut = self.randrange(len(whole))
        makers = [
            lambda: self.randbytes(self.randint(0, 200)),
            lambda: self.choice(STARTS),
            lambda: json.dumps({"activities": self.json()}).encode(),
            lambda: json.dumps(self.json()).encode(self.choice(["utf-16", "utf-32", "utf-8"])),
            lambda: b'{"activities":' + self.choice(RAW_VALUES) + b"}",
            lambda: b'{"activities":["' + whole + b"]}",
            lambda: whole[:cut],
            lambda: whole[:cut] + self.randbytes(2) + whole[cut + 1 :],
        ]
        return self.choice(makers)()

    def error(self) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body of a reply that is not a success, or only looks like one."""
        headers = {"retry-after": self.choice(WISHES), "location": self.text()}
        return self.choice(STATUSES), headers, self._error_body()

    def _error_body(self) -> bytes:
        error = {"code": self.json(1), "message": self.json(1), "details": self.json()}
        raw, deep = self.choice(RAW_VALUES), b"[" * 900 + b"]" * 900
        makers = [
            self.garbage,
            lambda: json.dumps({"error": self.json()}).encode(),
            lambda: json.dumps({"error": error}).encode(),
            lambda: b'{"error":{"message":"m","details":{"a":%b}}}' % raw,
            lambda: b'{"acknowledged":%b,"warnings":%b}' % (raw, raw),
            lambda: b'{"acknowledged":true,"warnings":%b,"error":{"details":{"a":%b}}}' % (deep, deep),
        ]
        return self.choice(makers)()
