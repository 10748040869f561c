"""Errors of an app, its times, its files and its engine: each names its place and remedy and has its exit code.

Errors of the command line and of settings are in the other catalogue; `check` reports here what `run` would report.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from scripted_http import Reply, scripted_server

from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEAD = "from flowherd import ActivityContext, Registry, activity\n"
GOOD = HEAD + "@activity\ndef resize(size: int): ...\n"
OPEN = {"/health": Reply(200, {"status": "ok", "insecure_dev": True})}
CLOSED = {"/health": Reply(200, {"status": "ok"})}
TOKEN = "/api/v1/oauth/token"
SECRET = {"secret": "s3cret"}


@dataclass(frozen=True)
class Fault:
    """An app with a fault, and the expected report."""

    title: str
    code: int
    place: str
    remedy: str
    app: str = GOOD
    words: str = ""
    attribute: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    engine: Mapping[str, Reply] | None = field(default_factory=lambda: OPEN)

    def __str__(self) -> str:
        return self.title


def handler(text: str) -> str:
    """An app with one handler."""
    return f"{HEAD}{text}\n"


LOGIN = "--client-id me --client-secret-file secret"
FAULTS = [
    # the app
    Fault(
        "no such attribute",
        2,
        "APP has no 'regsitry'",
        "did you mean registry",
        HEAD + "registry = Registry()\n",
        attribute=":regsitry",
    ),
    Fault("an empty module", 2, "APP holds no activities", "decorate functions with @activity", "x = 1"),
    Fault(
        "an object of another kind",
        2,
        "APP:x is a int",
        "give a flowherd.Registry, a list or module",
        "x = 1",
        attribute=":x",
    ),
    Fault(
        "a function that nobody decorated",
        2,
        "APP:f is a plain function",
        "decorate it with @activity",
        "def f(): ...",
        attribute=":f",
    ),
    Fault(
        "a class in the place of an activity",
        2,
        "APP:A is a class",
        "a = A() in the module",
        "class A:\n    def execute(self): ...",
        attribute=":A",
    ),
    Fault(
        "two activities of one name",
        2,
        "two activities are named 'a'",
        '@activity(name="…")',
        handler('@activity(name="a")\ndef f(): ...\n@activity(name="a")\ndef g(): ...'),
    ),
    Fault(
        "a name that is empty",
        2,
        "f, ",
        "needs a name of 1 to 200 characters",
        handler('@activity(name="")\ndef f(): ...'),
    ),
    Fault(
        "a plain def on the loop",
        2,
        "would block the event loop",
        'drop offload="loop" or make it async def',
        handler('@activity(offload="loop")\ndef f(): ...'),
    ),
    Fault(
        "an unknown offload",
        2,
        "not 'gpu'",
        '"thread", "process" or None',
        handler('@activity(offload="gpu")\ndef f(): ...'),
    ),
    Fault(
        "two offloads that contradict",
        2,
        "contradict",
        "keep one",
        handler('@activity(offload="process", offload_to_thread=True)\ndef f(): ...'),
    ),
    Fault(
        "a limit below zero",
        2,
        "timeout_s",
        "a number of seconds above 0",
        handler("@activity(timeout_s=-1)\ndef f(): ..."),
    ),
    Fault(
        "room for none at once",
        2,
        "max_concurrent",
        "at least 1",
        handler("@activity(max_concurrent=0)\ndef f(): ..."),
    ),
    Fault(
        "a parameter without a name",
        2,
        "*args cannot be bound",
        "take params: dict",
        handler("@activity\ndef f(*args): ..."),
    ),
    Fault(
        "an annotation that is not there",
        2,
        "the annotation of 'a'",
        "import it unconditionally",
        handler('@activity\ndef f(a: "Nope"): ...'),
    ),
    Fault(
        "an import that is missing",
        3,
        "could not be imported",
        "No module named 'no_such_dependency'",
        "import no_such_dependency",
    ),
    Fault("a module that raises", 3, "could not be imported", "ZeroDivisionError: division by zero", "1 / 0"),
    Fault("a module that exits", 3, "could not be imported", "SystemExit: 0", "raise SystemExit(0)"),
    Fault("a module with a slip of syntax", 3, "could not be imported", "SyntaxError", "def f(:"),
    Fault(
        "a worker type that it does not have",
        2,
        "no activities of worker type 'java'",
        "only of: py-a",
        handler('registry = Registry("py-a")\n@registry.activity\ndef f(): ...'),
        "--worker java",
        ":registry",
    ),
    # its configuration
    Fault(
        "settings for an activity that it lacks",
        2,
        "[activities.resise]",
        "configures no activity of this app: did you mean resize?",
        files={"flowherd.toml": "[activities.resise]\nmax_concurrent = 1"},
    ),
    Fault(
        "a folder that is not there",
        2,
        "--app-dir nowhere",
        "there is no such folder",
        words="--app-dir nowhere",
    ),
    Fault("more processes than there can be", 2, "--processes", "at most 256", words="-p 257"),
    Fault("more slots than there can be", 2, "--concurrency", "at most 100000", words="-c 200000"),
    Fault(
        "replies without bound",
        2,
        "--max-reply-mb",
        "at most 4096",
        words="--max-reply-mb 99999",
    ),
    Fault(
        "a worker_id that is too long",
        2,
        "--worker-id",
        "at most 120 characters",
        words=f"--worker-id {'x' * 121}",
    ),
    # times that clash: allowed, with a warning
    Fault(
        "beats that come too late",
        0,
        "--heartbeat-interval 30",
        "20 s is used",
        words="--heartbeat-interval 30",
    ),
    Fault(
        "a stop that is shorter than the work",
        0,
        "--graceful-timeout 5",
        "requeues activities that run longer",
        words="--graceful-timeout 5 --activity-timeout 50",
    ),
    Fault(
        "a lease without room",
        0,
        "--default-lease 1",
        "leaves no room for a lost heartbeat",
        words="--default-lease 1",
    ),
    Fault(
        "a longest pause that is the shorter one",
        0,
        "--poll-interval-max",
        "the latter is used",
        words="--poll-interval 5",
    ),
    # files and their permissions
    Fault(
        "a module that hides another",
        0,
        "json.py hides the standard library's json",
        "rename it",
        files={"json.py": ""},
    ),
    Fault(
        "a secret that all can read",
        0,
        "secret can be read by others",
        "chmod 600 secret",
        words=LOGIN,
        files=SECRET,
        engine=OPEN | {TOKEN: Reply(200, {"access_token": "t"})},
    ),
    Fault(
        "a secret that is empty",
        2,
        "--client-secret-file secret",
        "the file is empty",
        words=LOGIN,
        files={"secret": ""},
    ),
    Fault(
        "a secret that is a folder",
        2,
        "--client-secret-file .",
        "Is a directory",
        words="--client-id me --client-secret-file .",
    ),
    # the engine and the credentials
    Fault(
        "nobody at the address",
        1,
        "does not answer",
        "flowherd engine starts one, --api-url names another",
        engine=None,
    ),
    Fault(
        "another server at the address",
        1,
        "/health answers 404",
        "--api-url names no healthy engine",
        engine={},
    ),
    Fault(
        "an engine that is not well",
        1,
        "/health answers 503",
        "--api-url names no healthy engine",
        engine={"/health": Reply(503, {"status": "down"})},
    ),
    Fault(
        "an engine that asks for tokens",
        2,
        "the engine asks for tokens",
        "set KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET",
        engine=CLOSED,
    ),
    Fault(
        "credentials that are refused",
        4,
        "the token endpoint answered 401",
        "check --client-id and KRUXIAFLOW_CLIENT_SECRET",
        words=LOGIN,
        files=SECRET,
        engine=CLOSED | {TOKEN: Reply(401, {})},
    ),
    Fault(
        "credentials that nobody wants",
        4,
        "answered 401",
        "this engine needs no token: unset KRUXIAFLOW_CLIENT_ID",
        words=LOGIN,
        files=SECRET,
        engine=OPEN | {TOKEN: Reply(401, {})},
    ),
    Fault(
        "a token that no header can carry",
        1,
        "token endpoint",
        "no header can carry",
        words=LOGIN,
        files=SECRET,
        engine=CLOSED | {TOKEN: Reply(200, {"access_token": "a b"})},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_names_its_place_and_the_remedy(
    fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code that the pages name; a traceback is shown only where it is the user's own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in [name for name in sys.modules if name.startswith("kruxiaflow")]:
        monkeypatch.delitem(sys.modules, module)  # hidden from an app that does not use it
    name = f"app_{abs(hash((fault.title, str(folder))))}"
    (folder / f"{name}.py").write_text(fault.app)
    for path, text in fault.files.items():
        (folder / path).write_text(text)
        (folder / path).chmod(0o644)
    with scripted_server(dict(fault.engine or {})) as server:
        url = server.url if fault.engine is not None else "http://127.0.0.1:9"
        with pytest.raises(SystemExit) as left:
            main(["check", name + fault.attribute, "--api-url", url, *fault.words.split()])
    out, err = capsys.readouterr()
    said = out + "".join(line for line in err.splitlines(keepends=True) if line.startswith("flowherd: "))
    assert int(left.value.code or 0) == fault.code, out + err
    [line] = [line for line in said.splitlines() if fault.place.replace("APP", name) in line]
    assert fault.remedy in line
    assert line.strip().startswith({0: "warning"}.get(fault.code, ("wrong", "flowherd: ")))
    assert ("Traceback" in err or "SyntaxError" in err) == (fault.code == 3)
    assert "s3cret" not in out + err


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_secret_that_may_not_be_read_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Permissions: the file, and why."""
    (folder / "secret").write_text("s3cret")
    (folder / "secret").chmod(0)
    with pytest.raises(SystemExit) as left:
        main(["check", "app", *LOGIN.split()])
    assert left.value.code == 2
    assert "--client-secret-file secret: Permission denied" in capsys.readouterr().err


def test_the_catalogue_is_whole() -> None:
    """The catalogue must not shrink unnoticed; it covers each exit code of `check`."""
    assert len(FAULTS) >= 40
    assert len({fault.title for fault in FAULTS}) == len(FAULTS)
    assert {fault.code for fault in FAULTS} == {0, 1, 2, 3, 4}
