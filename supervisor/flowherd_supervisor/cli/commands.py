"""The `flowherd` command line: parses arguments and calls the module of each command.

Commands are imported when they run, so that `flowherd --help` stays fast.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flowherd import __version__
from flowherd.exit_codes import Exit
from flowherd.settings import DEFAULT_WORKER_TYPE
from flowherd.settings.command_exit import call
from flowherd_supervisor.cli.bench_command import bench
from flowherd_supervisor.cli.ctl_command import PidFlag, ctl_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd_supervisor.cli.host_order import HostOrder

_Admin = Annotated[str | None, Parameter(help="HOST:PORT or unix:PATH of a supervisor")]
_WITH_FLAGS = "flowherd_supervisor.cli.run_check_config_commands"

app = App(
    name="flowherd",
    version=__version__,
    help="Run Python activities of a workflow engine on all CPUs.",
    help_format="plaintext",
    result_action="return_value",
)
config_app = App(name="config", help="Show settings.")
app.command(config_app)
app.command(ctl_app)
app.command(bench)
app.command(
    f"{_WITH_FLAGS}:run",
    name="run",
    help="Run the activities of APP on several processes until it is stopped.",
)
app.command(
    f"{_WITH_FLAGS}:check",
    name="check",
    help="Check settings, import, activities, times, engine and token, and report what is wrong.",
)
config_app.command(f"{_WITH_FLAGS}:show", name="show", help="Show every setting and its origin.")
config_app.command(f"{_WITH_FLAGS}:schema", name="schema", help="Print the JSON schema of the settings file.")


@app.command
def init(
    folder: Annotated[
        Path, Parameter(name="FOLDER", help="folder for the project; made if it does not exist")
    ] = Path(),
    /,
    *,
    name: Annotated[str, Parameter(help="name of the module")] = "my_app",
    unit: Annotated[
        Path | None,
        Parameter(help="write only this file: a systemd unit for the app in FOLDER", metavar="FILE"),
    ] = None,
) -> int:
    """Write a starter project: app, test, settings, unit file."""
    from flowherd_supervisor.cli import init as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part.init(folder, name) if unit is None else part.init_unit(unit, folder, name)


@app.command
def dev(
    app_name: Annotated[str, Parameter(name="APP", help="module:attr, as for run")],
    /,
    *,
    app_dir: Annotated[str, Parameter(help="first folder of the import path; watched for changes")] = ".",
    processes: Annotated[
        int | None, Parameter(name=["--processes", "-p"], help="worker processes [default: as run]")
    ] = None,
    port: Annotated[int, Parameter(help="port of the engine; 0 picks a free one")] = 8080,
    db: Annotated[str, Parameter(help="SQLite file for the engine's state")] = ":memory:",
    reload: Annotated[bool, Parameter(help="import the app again when its files change")] = True,
    admin: Annotated[str | None, Parameter(help="as for run")] = None,
    log_format: Annotated[str | None, Parameter(help="text or json")] = None,
) -> int:
    """Run the embedded engine and APP together, and reload APP when its files change."""
    from flowherd.settings.sources import check_flags  # noqa: PLC0415 - as above
    from flowherd_supervisor.cli import dev as part  # noqa: PLC0415 - as above

    check_flags({"processes": processes, "admin": admin, "log_format": log_format})
    given = {"--admin": admin, "--log-format": log_format}
    flags = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    return part.dev(
        part.DevOptions(
            app_name, app_dir, port=port, db=db, processes=processes, reload=reload, flags=tuple(flags)
        )
    )


@app.command
def engine(
    *,
    host: Annotated[
        str, Parameter(help="address to listen on; another than loopback needs --client-id")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 picks a free one")] = 8080,
    db: Annotated[str, Parameter(help="SQLite file for the state")] = ":memory:",
    client_id: Annotated[
        str | None, Parameter(help="require tokens; the secret is in KRUXIAFLOW_CLIENT_SECRET")
    ] = None,
    default_lease: Annotated[float, Parameter(help="lease in seconds")] = 60.0,
    workflow_timeout: Annotated[
        float, Parameter(help="seconds after which a workflow that has not ended fails")
    ] = 300.0,
) -> int:
    """Run the embedded engine alone, for first use and tests."""
    from flowherd_engine.serve import serve  # noqa: PLC0415 - needs an extra
    from flowherd_engine.settings import EngineSettings  # noqa: PLC0415 - as above

    secret = os.environ.get("KRUXIAFLOW_CLIENT_SECRET") if client_id is not None else None
    return serve(
        EngineSettings(
            host=host,
            port=port,
            db=db,
            client_id=client_id,
            client_secret=secret,
            default_lease_s=default_lease,
            workflow_timeout_s=workflow_timeout,
        )
    )


@app.command
def demo(
    *,
    processes: Annotated[
        int | None, Parameter(name=["--processes", "-p"], help="[default: all usable CPUs]")
    ] = None,
    chaos: Annotated[bool, Parameter(help="kill a worker process now and then", negative="")] = False,
    json: Annotated[bool, Parameter(help="one JSON document on stdout", negative="")] = False,
) -> int:
    """Run an engine, a supervisor and a real workload on one process and on all CPUs."""
    from flowherd_supervisor.demo.driver import run_demo  # noqa: PLC0415 - as above

    return run_demo(processes, chaos=chaos, as_json=json)


@app.command
def submit(
    *names: Annotated[str, Parameter(help="activity names", name="NAME")],
    params: Annotated[
        list[str] | None,
        Parameter(name=["-P"], help="an input: key=value, read as JSON, else as text", negative=""),
    ] = None,
    input_: Annotated[
        str | None, Parameter(name="--input", help="all inputs: a JSON object, or @file")
    ] = None,
    definition: Annotated[Path | None, Parameter(help="deploy and run this definition, YAML or JSON")] = None,
    worker: Annotated[str, Parameter(help="worker type of the activities")] = DEFAULT_WORKER_TYPE,
    api_url: Annotated[str | None, Parameter(help="the engine [env: KRUXIAFLOW_API_URL]")] = None,
    wait: Annotated[bool, Parameter(help="wait for the outputs")] = True,
    json: Annotated[bool, Parameter(help="one JSON object for each, a line each", negative="")] = False,
) -> int:
    """Queue activities or a definition, wait, and print the outputs."""
    from flowherd.settings import sources  # noqa: PLC0415 - as above
    from flowherd_supervisor.cli import submit as part  # noqa: PLC0415 - as above

    config = sources.load({"api_url": api_url}).settings.worker_config(1)
    inputs = part.read_inputs(params or (), input_)
    return part.submit(part.Submission(names, inputs, definition, worker, wait, json), config)


@app.command
def status(
    *,
    admin: _Admin = None,
    pid: PidFlag = None,
    json: Annotated[bool, Parameter(help="the whole document", negative="")] = False,
) -> int:
    """Show the state of a running host once: processes, activities, what runs and waits, and the last failures.

    Counts are of attempts. CPU% and own MB of a process do not include its isolates.
    """
    from flowherd_supervisor.cli.status import show_status  # noqa: PLC0415 - as above

    return show_status(admin=admin, pid=pid, as_json=json)


@app.command
def top(
    *,
    admin: _Admin = None,
    pid: PidFlag = None,
    once: Annotated[bool, Parameter(help="one plain table, as into a pipe", negative="")] = False,
) -> int:
    """Show the state of a running host live; keys control it."""
    from flowherd_supervisor.cli.top import top as part  # noqa: PLC0415 - as above

    return part(admin=admin, pid=pid, once=once)


@app.command
def explain(
    workflow_id: Annotated[
        str,
        Parameter(
            name="WORKFLOW_ID", help="id of a workflow, as submit and the log print it; or of an activity"
        ),
    ],
    /,
    *,
    activity: Annotated[str | None, Parameter(help="show this activity only: its id, key or name")] = None,
    api_url: Annotated[str | None, Parameter(help="the engine [env: KRUXIAFLOW_API_URL]")] = None,
    json: Annotated[bool, Parameter(help="the whole document", negative="")] = False,
) -> int:
    """Show the history of a workflow, from the hosts on this machine and the engine, and what comes next."""
    from flowherd.settings import sources  # noqa: PLC0415 - as above
    from flowherd_supervisor.cli import explain as part  # noqa: PLC0415 - as above

    loaded = sources.load({"api_url": api_url})
    question = part.Question(
        workflow_id, activity, api_url, as_json=json, has_engine="api_url" in loaded.origins
    )
    return part.explain(question, loaded.settings.worker_config(1))


@app.command
def advise(
    *,
    admin: _Admin = None,
    pid: PidFlag = None,
    json: Annotated[bool, Parameter(help="the whole document", negative="")] = False,
) -> int:
    """Say where each activity should run (loop, thread or process) and how many processes fit, with measurements."""
    from flowherd_supervisor.cli.advise import show_advice  # noqa: PLC0415 - as above

    return show_advice(admin=admin, pid=pid, as_json=json)


@app.command
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")], /) -> int:
    """Print a completion script: source <(flowherd completion bash), the same for zsh; fish: … | source."""
    sys.stdout.write(_completing(app.generate_completion(prog_name="flowherd", shell=shell), shell))
    return Exit.CLEAN


def _completing(script: str, shell: str) -> str:
    """Returns the completion script of a shell; for zsh it can be sourced or put into a folder of `$fpath`."""
    if shell != "zsh":
        return script
    [function] = re.findall(r"^(\w+)\(\) \{$", script, flags=re.MULTILINE)[:1]
    return f"""{script}
if [[ $funcstack[1] == _flowherd ]]; then
  {function} "$@"
elif (( $+functions[compdef] )); then
  compdef {function} flowherd
else
  print -u2 'flowherd: first start completion: autoload -Uz compinit && compinit'
fi
"""


def answer(words: Sequence[str]) -> int | HostOrder:
    """Calls the command and returns its exit code, of `flowherd.exit_codes`; of `run`, what it is asked to host."""
    found: int | HostOrder = call(app, "flowherd", words)
    return found
