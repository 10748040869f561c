"""Imports an app from `module:attr` and returns its registry."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import inspect
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flowherd.errors import AppImportError, ConfigurationError
from flowherd.sdk.activity_decorator import definition_of
from flowherd.sdk.registry import Registry
from flowherd.settings import DEFAULT_WORKER_TYPE
from flowherd.stock_sdk import adapt_apps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KINDS = "a flowherd.Registry, a list or module of activities, or a kruxiaflow registry, activity or main()"

_NOT_THE_USERS = (
    "<frozen importlib",
    str(importlib.__file__),
    str(contextlib.__file__),
    str(Path(__file__).parents[1]),
)


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """An imported app.

    Attributes:
        name: `module:attr` as given on the command line.
        registry: its activities of all worker types; `for_type` selects one type.

    """

    name: str
    registry: Registry

    @property
    def worker_types(self) -> tuple[str, ...]:
        """The worker types that its activities name; empty when they serve any type."""
        return self.registry.worker_types()

    def for_type(self, worker_type: str) -> Registry:
        """Returns the registry of one worker type with all bindings checked; ConfigurationError when it is empty."""
        chosen = self.registry.for_type(choose_worker_type(self, worker_type))
        chosen.check()
        return chosen


def load_app(app: str, app_dir: str | Path = ".") -> LoadedApp:
    """Imports an app; must be called outside a running event loop, because a stock `main` may start one.

    Args:
        app: `module:attr`, or `module` for a module of decorated functions.
        app_dir: put first on `sys.path`.

    Raises:
        ConfigurationError: the module or attribute does not exist, or has no activities (exit code 2).
        AppImportError: the module, or the stock `main`, raised (exit code 3).

    """
    module_name, _, attribute = app.partition(":")
    folder = str(Path(app_dir).resolve())
    meant = _meant(app, folder)
    if meant or not module_name.strip() or module_name.startswith(".") or "/" in module_name:
        raise ConfigurationError(f"the app must look like module:attr, not {app!r}{meant}")
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    module = _import(module_name, folder)
    found = _attribute(module, attribute, app) if attribute else module
    registry = _registry_of(found, app)
    if not len(registry):
        raise ConfigurationError(
            f"{app} holds no activities: decorate functions with @activity, or register them"
        )
    return LoadedApp(app, registry)


def choose_worker_type(app: LoadedApp, explicit: str | None = None) -> str:
    """Returns the worker type to serve: the explicit one, else the app's only one, else `py-std`.

    Raises:
        ConfigurationError: no type is chosen among several, or the app lacks the chosen one; lists them (exit code 2).

    """
    types = app.worker_types
    listed = ", ".join(types)
    if explicit is None:
        if len(types) > 1:
            raise ConfigurationError(
                f"{app.name} has activities of several worker types, choose one of: {listed}"
            )
        return types[0] if types else DEFAULT_WORKER_TYPE
    if explicit not in types and not any(found.worker_type is None for found in app.registry):
        raise ConfigurationError(
            f"{app.name} has no activities of worker type {explicit!r}, only of: {listed}"
        )
    return explicit


def _import(name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (exc.name == name or name.startswith(exc.name + ".")):
            raise ConfigurationError(_no_module(name, exc.name, folder)) from None
        raise _boot_error(name, exc) from exc
    except (KeyboardInterrupt, ConfigurationError):
        raise
    except BaseException as exc:
        raise _boot_error(name, exc) from exc


def _meant(app: str, folder: str) -> str:
    """Returns a hint for an app given as a path, or with a dot for the colon; parses the file without importing it."""
    name, _, attribute = app.partition(":")
    path, there = Path(name), Path(folder, name)
    if path.suffix == ".py" and path.stem.isidentifier():
        apps = _apps_in(there)
        attribute = attribute or (apps[0] if apps else "registry" if apps is None else "")
    elif (
        path.stem.isidentifier()
        and path.suffix
        and there.with_suffix(".py").is_file()
        and not there.with_suffix("").exists()
    ):
        attribute = path.suffix[1:]
    else:
        return ""
    where = "" if path.parent == Path() else f" with --app-dir {path.parent}"
    return f": did you mean {path.stem}{':' if attribute else ''}{attribute}{where}?"


def _apps_in(file: Path) -> list[str] | None:
    """Returns the top-level names in a file that may be an app, likeliest first; None when there is no file."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except OSError:
        return None
    except (SyntaxError, ValueError):
        return []
    found = [
        target.id
        for statement in statements
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name) and "Registry" in ast.dump(statement.value.func)
    ]
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return found + [one.name for one in statements if isinstance(one, functions) and one.name == "main"]


def _no_module(name: str, missing: str, folder: str) -> str:
    here = sorted(
        {path.stem for path in Path(folder).glob("*.py")}
        | {p.parent.name for p in Path(folder).glob("*/__init__.py")}
    )
    return (
        f"there is no module {missing!r} in {folder} or among the installed ones{_did_you_mean(name, here)}"
    )


def _attribute(module: ModuleType, attribute: str, app: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigurationError(
                f"{module.__name__} has no {part!r} (for {app}){_did_you_mean(part, names)}"
            ) from None
    return found


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else ""


def _registry_of(found: Any, app: str) -> Registry:
    """Returns the registry for any of the six kinds of app."""
    if isinstance(found, Registry):
        return found
    if (adapted := adapt_apps.registry_of(found)) is not None:
        return adapted
    if definition_of(found) is not None:
        return Registry.of([found])
    if isinstance(found, list | tuple | set | frozenset):
        return Registry.of(found)
    if isinstance(found, ModuleType):
        return Registry.of(_activities_in(found))
    if inspect.isfunction(found) and adapt_apps.is_imported():
        return _from_main(found, app)
    raise ConfigurationError(f"{app} is {_misfit(found)}")


def _misfit(found: Any) -> str:
    if inspect.isfunction(found):
        return f"a plain function: decorate it with @activity, or give {KINDS}"
    if inspect.isclass(found) and hasattr(found, "execute"):
        name = found.__name__
        return f"a class: give an activity made of it, such as {name.lower()} = {name}() in the module"
    return f"a {type(found).__name__}: give {KINDS}"


def _activities_in(module: ModuleType) -> list[Any]:
    """Returns the activities of a module, each once, in the order of their definitions."""
    members = {id(value): value for value in vars(module).values()}.values()
    return [value for value in members if definition_of(value) is not None or adapt_apps.is_activity(value)]


def _from_main(main: Callable[..., Any], app: str) -> Registry:
    try:
        handed_over = adapt_apps.hand_over(main)
    except (KeyboardInterrupt, ConfigurationError):
        raise
    except BaseException as exc:
        raise _boot_error(app, exc) from exc
    if handed_over is None:
        raise ConfigurationError(f"{app} ended without giving a registry to kruxiaflow.worker.WorkerManager")
    return handed_over


def _boot_error(name: str, exc: BaseException) -> AppImportError:
    line = traceback.format_exception_only(exc)[-1].strip()
    return AppImportError(f"{name} could not be imported: {line}", users_traceback(exc))


def users_traceback(exc: BaseException) -> str:
    """Formats the traceback without the frames of the import system and of flowherd."""
    whole = traceback.TracebackException.from_exception(exc)
    link: traceback.TracebackException | None = whole
    while link is not None:
        own = [frame for frame in link.stack if not frame.filename.startswith(_NOT_THE_USERS)]
        link.stack = traceback.StackSummary.from_list(own)
        link = link.__cause__ or link.__context__
    return "".join(whole.format()).rstrip()
