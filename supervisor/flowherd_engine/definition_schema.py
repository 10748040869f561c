"""The typed form of a definition, and its parsing from YAML or JSON."""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import inspect

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

MAX_NODES = 1_000_000  # aliases can unfold a small text into gigabytes
MAX_DEPTH = 100
_UNREAD = object()


class Unreadable(ValueError):
    """A text that is neither YAML nor JSON, or has the wrong types."""


class Edge(msgspec.Struct, omit_defaults=True):
    """A dependency on a completed activity; with conditions, in either spelling, it must be over and all hold."""

    activity_key: str
    condition: str | list[str] | None = None
    conditions: str | list[str] | None = None

    @property
    def tests(self) -> tuple[str, ...] | None:
        """The conditions, or None if there are none."""
        written = self.condition if self.conditions is None else self.conditions
        if written is None:
            return None
        return (written,) if isinstance(written, str) else tuple(written)


class _Output(msgspec.Struct):
    name: str
    type: Literal["value", "file", "folder"] = "value"


class _StreamingOptions(msgspec.Struct):
    enabled: bool = False


class Retry(msgspec.Struct):
    """`settings.retry`; its presence alone turns four attempts into one (protocol.md §3.1)."""

    max_attempts: Unsigned = 1
    strategy: Literal["exponential", "fixed"] = "exponential"
    base_seconds: Seconds = 2
    factor: float = 2.0
    max_seconds: Seconds = 300

    def backoff_s(self, failed_attempt: int) -> int:
        """Whole seconds to wait after attempt number `failed_attempt`, counted from 1 (protocol.md §3.2)."""
        if self.strategy == "fixed":
            return min(self.base_seconds, self.max_seconds)
        try:
            delay_s = self.base_seconds * self.factor ** (failed_attempt - 1)
        except OverflowError:
            return self.max_seconds
        return int(max(0.0, min(delay_s, self.max_seconds)))


class WaitForSignal(msgspec.Struct):
    """`settings.wait_for_signal` (protocol.md §8.1)."""

    event_name: str
    timeout_seconds: Seconds
    on_timeout: Literal["continue", "skip", "fail"] = "fail"


class _Budget(msgspec.Struct):
    limit: str | int | float
    action: Literal["abort", "continue"] = "abort"


class Settings(msgspec.Struct, omit_defaults=True):
    """`settings` of an activity; unknown keys are dropped."""

    timeout_seconds: Seconds | None = None
    retry: Retry | None = None
    budget: _Budget | None = None
    cache: bool = False
    cache_ttl: Seconds | None = None
    iteration_limit: Unsigned | None = None
    delay: str | None = None
    scheduled_for: str | None = None
    wait_for_signal: WaitForSignal | None = None

    def document(self, streaming: Any) -> dict[str, Any]:
        """Returns the object for workers: always with `cache`, without unset keys (protocol.md §8.1)."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        found["cache"] = self.cache
        if streaming is True or (isinstance(streaming, _StreamingOptions) and streaming.enabled):
            found["streaming"] = msgspec.to_builtins(streaming)
        return found


class Activity(msgspec.Struct, omit_defaults=True):
    """An activity as written."""

    key: str
    worker: str = msgspec.field(
        default_factory=lambda: "std"
    )  # never omitted, so that there is one normal form
    activity_name: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[str | _Output] | None = None
    depends_on: list[str | Edge] | None = None
    dependency_of: list[str | Edge] | None = None
    settings: Settings | None = None
    iteration_scoped: bool = False
    iteration_limit: Unsigned | None = None
    streaming: bool | _StreamingOptions | None = None


class Workflow(msgspec.Struct, omit_defaults=True):
    """A whole definition as written."""

    name: str
    activities: list[Activity]
    settings: dict[str, Any] | None = None


def as_edge(written: str | Edge) -> Edge:
    """Returns a dependency in its normal form."""
    if isinstance(written, str):
        return Edge(written)
    tests = written.tests
    return Edge(written.activity_key, conditions=None if tests is None else list(tests))


def as_output(written: str | _Output) -> dict[str, str]:
    """Returns an output definition in its full form."""
    output = _Output(written) if isinstance(written, str) else written
    return {"name": output.name, "type": output.type}


def read(body: str) -> Workflow:
    """Parses a YAML or JSON text.

    Raises:
        Unreadable: with the parser's message.

    """
    try:
        return msgspec.convert(load(body), type=Workflow)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def load(body: str) -> Any:
    """Returns the value of a YAML or JSON text; raises Unreadable with the parser's message."""
    try:
        value = _UNREAD
        if body.lstrip().startswith("{"):
            with contextlib.suppress(msgspec.DecodeError):  # YAML's flow style also begins with a brace
                value = msgspec.json.decode(body)
                _measure(value)
        return _load_yaml(body) if value is _UNREAD else value
    except (msgspec.MsgspecError, yaml.YAMLError, RecursionError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def unknown_keys(
    value: Any, kind: inspect.Type | None = None, at: str = ""
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields each key of a definition as written that the parser drops: its place, the key, and the known ones."""
    match kind or inspect.type_info(Workflow):
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {field.encode_name: field.type for field in fields}
            for key, item in value.items():
                if key in known:
                    yield from unknown_keys(item, known[key], f"{at}.{key}" if at else key)
                else:
                    yield at, str(key), tuple(known)
        case inspect.ListType(item_type=kind) if isinstance(value, list):
            for index, item in enumerate(value):
                yield from unknown_keys(item, kind, f"{at}[{index}]")
        case inspect.UnionType(types=kinds):
            for one in kinds:
                yield from unknown_keys(value, one, at)
        case _:
            pass


class _Loader(yaml.CSafeLoader):
    """YAML 1.2's core schema: `no`, `on` and dates stay strings, as the server reads them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's own class attribute


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda _loader, node: int(node.value, 16 if node.value.startswith("0x") else 10),
)


def _load_yaml(body: str) -> Any:
    value = yaml.load(body, _Loader)  # noqa: S506 - the loader is a subclass of CSafeLoader
    _measure(value)
    return value


def _measure(root: Any) -> None:
    """Refuses values that expand too much, counting an alias as often as it is used, non-finite numbers and NUL."""
    nodes = 0
    waiting: list[tuple[Any, int]] = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Unreadable(f"more than {MAX_NODES} values or {MAX_DEPTH} levels")
        match value:
            case dict():
                waiting.extend((item, depth + 1) for item in value.values())
            case list():
                waiting.extend((item, depth + 1) for item in value)
            case float() if not math.isfinite(value):
                raise Unreadable("numbers must be finite")
            case str() if "\x00" in value:
                raise Unreadable("text must not contain the NUL character")
            case _:
                pass
