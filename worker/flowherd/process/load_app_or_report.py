"""From `module:attr` to what a process serves, or to the message that says why not; it never lets anything out."""

from __future__ import annotations

import faulthandler
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowherd.errors import AppImportError, ConfigurationError
from flowherd.execution.load_app import LoadedApp, choose_worker_type, load_app
from flowherd.exit_codes import Exit
from flowherd.link.messages import BootFailed, boot_failed

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(
    app: str, app_dir: str, worker_type: str | None, activities: Mapping[str, Mapping[str, Any]]
) -> LoadedApp | BootFailed:
    """Imports an app and narrows it to what is served here.

    Args:
        app: `module:attr`.
        app_dir: put first on `sys.path`.
        worker_type: the type to serve, None for the app's only one.
        activities: options of activities, as `Registry.configured` takes them.

    Returns:
        The app; its registry has one worker type, and every binding has been made.

    """
    try:
        try:
            whole = load_app(app, app_dir)
        finally:
            faulthandler.cancel_dump_traceback_later()  # whoever has made this process watches its import
        chosen = whole.for_type(choose_worker_type(whole, worker_type))
        return replace(whole, registry=chosen.configured(activities))
    except ConfigurationError as error:
        return boot_failed(Exit.USAGE, str(error))
    except AppImportError as error:
        return boot_failed(Exit.BOOT_FAILED, str(error), error.report)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises at import is a boot failure
        return boot_failed(Exit.BOOT_FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())
