"""Loads the app for a process, or returns a BootFailed message with the reason; never raises."""

from __future__ import annotations

import faulthandler
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowherd.errors import AppImportError, ConfigurationError
from flowherd.execution.load_app import LoadedApp, choose_worker_type, load_app
from flowherd.exit_codes import Exit
from flowherd.link.bounded_messages import boot_failed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.link.messages import BootFailed


def load(
    app: str, app_dir: str, worker_type: str | None, activities: Mapping[str, Mapping[str, Any]]
) -> LoadedApp | BootFailed:
    """Imports an app and selects the activities to serve.

    Args:
        app: `module:attr`.
        app_dir: put first on `sys.path`.
        worker_type: the type to serve, None for the app's only one.
        activities: options of activities, as for `Registry.configured`.

    Returns:
        The app with a registry of one worker type and all bindings built, or BootFailed.

    """
    try:
        try:
            whole = load_app(app, app_dir)
        finally:
            faulthandler.cancel_dump_traceback_later()  # set by the parent to watch the import
        chosen = whole.for_type(choose_worker_type(whole, worker_type))
        return replace(whole, registry=chosen.configured(activities))
    except ConfigurationError as error:
        return boot_failed(Exit.USAGE, str(error))
    except AppImportError as error:
        return boot_failed(Exit.BOOT_FAILED, str(error), error.report)
    except BaseException as error:  # noqa: BLE001 - any exception of user code at import is a boot failure
        return boot_failed(Exit.BOOT_FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())
