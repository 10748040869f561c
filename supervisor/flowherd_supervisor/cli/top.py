"""`flowherd top`: the live view on a terminal, a plain table elsewhere."""

from __future__ import annotations

import signal
import sys

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd_supervisor.cli.status import show_status
from flowherd_supervisor.cli.top_feed import HttpFeed


def top(*, admin: str | None, pid: int | None, once: bool) -> int:
    """Shows a running supervisor until `q` is pressed; prints one table with `once` or into a pipe.

    Raises:
        ConfigurationError: there is no such supervisor, or the live view is not installed.

    """
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return show_status(admin=admin, pid=pid, as_json=False)
    feed = HttpFeed(admin, pid)
    try:
        from flowherd_supervisor.cli.top_app import TopApp  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError:
        raise ConfigurationError(
            "the live view is not installed: pip install 'flowherd[top]', or use flowherd top --once"
        ) from None
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would outlive its terminal
    TopApp(feed).run()
    return Exit.CLEAN
