"""The layers of both packages: what a module imports when it runs lies on its own layer or below."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from laws import Source

# Folders, the lowest first. Modules beside them are below all of them, those in TOP above.
LAYERS = {
    "flowherd": (
        "settings", "sdk", "ledger", "link", "transport", "client", "stock_sdk", "telemetry", "files", "execution",
        "isolates", "worker", "leases", "process",
    ),
    "flowherd_supervisor": (
        "core", "processes", "advise", "keeper", "shell", "testkit", "demo", "bench", "cli",
    ),
    "flowherd_engine": (),
}  # fmt: skip
TOP = {"__init__", "__main__", "testing", "pytest_plugin", "reference"}


def module_of(path: str) -> str:
    """Returns the module name of a file in a source root."""
    return path.split("/", 1)[1].removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(source: Source, modules: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yields our modules that a file imports at run time, each with its line, without those for types only."""
    for_types = {
        id(node)
        for block in ast.walk(source.tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    known = set(modules)
    for node in ast.walk(source.tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in known or node.module in LAYERS else node.module), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


def height_of(module: str) -> int | None:
    """Returns the layer of a module, 0 for the lowest, None for foreign modules."""
    package, _, rest = module.partition(".")
    if package not in LAYERS:
        return None
    first, _, inner = rest.partition(".")
    if first in LAYERS[package]:
        return 1 + LAYERS[package].index(first)
    return 1 + len(LAYERS[package]) if not first or (first in TOP and not inner) else 0


def imports_lie_below(source: Source) -> Iterator[str]:
    """Law 1."""
    own = module_of(source.path)
    height = height_of(own)
    for module, line in imported(source, ()):
        its = height_of(module)
        if height is not None and its is not None and its > height and same_package(own, module):
            yield f"{source.path}:{line}: {module} lies above"


def same_package(one: str, other: str) -> bool:
    """True if two modules belong to one package."""
    return one.partition(".")[0] == other.partition(".")[0]


def circles(sources: Iterable[Source]) -> list[list[str]]:
    """Returns cycles of run-time imports as lists that begin and end with the same module."""
    by_module = {module_of(source.path): source for source in sources}
    below: Mapping[str, set[str]] = {
        module: {
            target for target, _ in imported(source, by_module) if target in by_module and target != module
        }
        for module, source in by_module.items()
    }
    found, settled = [], set[str]()

    def follow(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in settled:
            for target in sorted(below[module]):
                follow(target, [*way, module])
            settled.add(module)

    for module in sorted(below):
        follow(module, [])
    return found
