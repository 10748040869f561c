"""The subcommands and flags of `flowherd ctl`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

ctl_app = App(name="ctl", help="Steer a running supervisor of yours, over its unix socket.")

AdminFlag = Annotated[str | None, Parameter(help="unix:PATH of a supervisor")]
TimeoutFlag = Annotated[float | None, Parameter(help="seconds to wait at most, then exit 1")]
PidFlag = Annotated[int | None, Parameter(help="pid of a supervisor on this host")]


@ctl_app.command
def scale(
    processes: Annotated[int, Parameter(name="N", help="so many processes from now on")],
    /,
    *,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Change the number of processes; the slots of the host are split anew."""
    return _order("scale", admin, pid, processes=processes)


@ctl_app.command
def reload(
    *,
    wait: Annotated[
        bool, Parameter(help="return when every process is new, or why it is not", negative="")
    ] = False,
    timeout: TimeoutFlag = None,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Read the settings again and import the app anew, process after process, as HUP does."""
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part.reload(part.Where(admin, pid), wait=wait, timeout_s=timeout)


@ctl_app.command
def quiet(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Stop polling; what runs goes on."""
    return _order("quiet", admin, pid)


@ctl_app.command
def resume(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Poll again."""
    return _order("resume", admin, pid)


@ctl_app.command
def stacks(*, admin: AdminFlag = None, pid: PidFlag = None) -> int:
    """Let every process write what it is doing to the supervisor's log."""
    return _order("stacks", admin, pid)


@ctl_app.command
def cancel(
    activity_id: Annotated[str, Parameter(name="ACTIVITY_ID", help="as in the log, and in status --json")],
    /,
    *,
    requeue: Annotated[
        bool, Parameter(help="let the engine hand it out again; else it has failed for good", negative="")
    ] = False,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """End one activity that runs: the engine is told, and its handler is stopped as one whose lease is lost."""
    return _order("cancel", admin, pid, activity_id=activity_id, requeue=requeue)


@ctl_app.command
def drain(
    *,
    wait: Annotated[bool, Parameter(help="return when it has ended", negative="")] = False,
    timeout: TimeoutFlag = None,
    admin: AdminFlag = None,
    pid: PidFlag = None,
) -> int:
    """Finish what runs, give back the rest, end: as TERM does. A second drain changes nothing."""
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part.drain(part.Where(admin, pid), wait=wait, timeout_s=timeout)


def _order(name: str, admin: str | None, pid: int | None, **body: object) -> int:
    from flowherd_supervisor.cli import send_order as part  # noqa: PLC0415 -

    return part.order(part.Where(admin, pid), name, **body)
