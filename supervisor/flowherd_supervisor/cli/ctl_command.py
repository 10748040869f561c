"""The subcommands and flags of `flowherd ctl`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

ctl_app = App(name="ctl", help="Control a running host of yours, over its unix socket.")

AdminFlag = Annotated[str | None, Parameter(help="unix:PATH of a supervisor")]
TimeoutFlag = Annotated[float | None, Parameter(help="longest wait in seconds; then exit 1")]
PidFlag = Annotated[int | None, Parameter(help="pid of a supervisor on this host")]


@ctl_app.command
def scale(
    processes: Annotated[int, Parameter(name="N", help="number of processes")],
    /,
    *,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Change the number of processes; the slots are divided again."""
    return _order("scale", admin, pid, processes=processes)


@ctl_app.command
def reload(
    *,
    wait: Annotated[
        bool,
        Parameter(help="wait until every new activity runs the new version, or say why not", negative=""),
    ] = False,
    timeout: TimeoutFlag = None,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Read the settings and import the app again, one process after the other, as HUP does."""
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part.reload(part.Where(admin, pid), wait=wait, timeout_s=timeout)


@ctl_app.command
def quiet(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Stop polling; running activities go on."""
    return _order("quiet", admin, pid)


@ctl_app.command
def resume(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Poll again."""
    return _order("resume", admin, pid)


@ctl_app.command
def stacks(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Log the running activities and the stacks of every process."""
    return _order("stacks", admin, pid)


@ctl_app.command
def cancel(
    activity_id: Annotated[
        str, Parameter(name="ID", help="id of an activity, as in the log, or of a workflow, as in status")
    ],
    /,
    *,
    requeue: Annotated[
        bool, Parameter(help="let the engine run it again; otherwise it fails for good", negative="")
    ] = False,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """End a running activity, or all of a workflow on this host: report it to the engine and stop its handler."""
    return _order("cancel", admin, pid, activity_id=activity_id, requeue=requeue)


@ctl_app.command
def keep(
    name: Annotated[str, Parameter(name="NAME", help="an activity, as in status")],
    /,
    *,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Bring an activity back to the event loop that was moved to isolates, and keep it there until a reload."""
    return _order("keep", admin, pid, activity=name)


@ctl_app.command
def drain(
    *,
    wait: Annotated[
        bool,
        Parameter(help="wait until the host has exited; 0 then, whatever its own exit code", negative=""),
    ] = False,
    timeout: TimeoutFlag = None,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Finish running activities, requeue the rest and exit, as TERM does. A second drain changes nothing."""
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part.drain(part.Where(admin, pid), wait=wait, timeout_s=timeout)


def _order(name: str, admin: str | None, pid: int | None, **body: object) -> int:
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 - as above

    return part.order(part.Where(admin, pid), name, **body)
