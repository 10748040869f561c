"""The events that the supervisor logs, for the reference; nothing reads them at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# An event → "level: meaning". "warning or error": the level says whether somebody has to act.
SUPERVISOR_EVENTS: Mapping[str, str] = {
    "activity_kept": (
        "info or warning: The activity runs on the event loop until a reload, by `flowherd ctl keep`, or (warning) "
        "because no isolate could be had for it."
    ),
    "activity_moved": (
        "warning: The activity blocked the event loop at `place` for `blocked_s` seconds, in two runs. It runs in"
        " isolates from now on, in every process; `remedy` says how to keep it on the loop."
    ),
    "admin_port_taken": "warning: Another program has the admin port. The unix socket still works.",
    "app_loaded": "info: The app was imported: its worker type and its activities.",
    "boot_failed": (
        "error: The app did not start; `reason` says why. `code` is the exit code: 2 if there is no such module or "
        "attribute, or no activity in it, 3 if its code raised an exception, whose traceback is in `exception`."
    ),
    "boot_timed_out": (
        "error: The app took longer than `--boot-timeout`; `at` is the line of yours it reached."
    ),
    "crash_loop": (
        "error: More than `--max-restarts` processes died quickly. flowherd drains and exits with 5."
    ),
    "credentials_refused": "error: The engine refused the credentials from the start. flowherd exits with 4.",
    "draining": "info: A stop began. Running activities have `within_s` seconds to end.",
    "ended": (
        "info, warning or error: The last line of a host: exit `code` and `reason`. A warning is code 6, an error a "
        "host that gave up."
    ),
    "isolate_not_understood": "error: A defect in flowherd. Please report it.",
    "isolate_not_watched": (
        "warning: No file descriptor was left. If the supervisor is killed now, programs of this isolate "
        "may stay."
    ),
    "keeper_died": "error: The keeper died and was replaced. Leases are kept. If it repeats, check the host.",
    "keeper_killed": "error: The keeper did not finish in time at a stop, and was killed.",
    "keeper_late": "error: The keeper did not run for `late_s` seconds and was replaced. Leases are kept.",
    "message_not_understood": "error: A defect in flowherd. Please report it.",
    "order_not_understood": "warning: A defect in flowherd. Please report it.",
    "polling_paused": "info: `flowherd ctl quiet`, or TSTP: the host takes no new work.",
    "polling_resumed": "info: `flowherd ctl resume`, or CONT: the host takes work again.",
    "preload_died": "warning: The preload process died and was replaced.",
    "preload_exited": "info: The preload process exited as ordered.",
    "preload_failed": "error: The app could not be imported by the preload process. The traceback follows.",
    "preload_given_up": (
        "warning: The preload process failed several times. Each process now imports the app itself."
    ),
    "preload_late": "warning: The preload process did not answer and was replaced.",
    "preload_ready": "info: The preload process has imported the app.",
    "preload_started": "info: The process that imports the app once was started.",
    "preload_unsafe": (
        "warning: The app starts threads, sockets or a GPU while it is imported, and these do not survive a"
        " fork. `found` names them with the line of yours; `remedy` says what to do."
    ),
    "process_died": (
        "warning: A process exited unexpectedly. `cause` says how: exit, signal or out of memory. Its work "
        "was requeued or adopted."
    ),
    "process_exited": "info: A process exited as ordered.",
    "process_hangs": (
        "error: A handler blocks its process beyond its limit; the process is ended. Give it `offload`, or "
        "a longer `timeout_s`."
    ),
    "process_killed": "warning: A process had used up its time to stop. Raise `--graceful-timeout`.",
    "process_not_started": "warning: No process, memory or descriptor was available. It is tried again.",
    "process_ready": "info: A process is ready and polls.",
    "process_started": "info: A process was started.",
    "recycling": "info: A process is replaced: `--max-tasks-per-child` or `--max-memory-per-child`.",
    "releasing": (
        "info: The host stops at once: what still runs is requeued within `within_s` seconds. A second TERM, or an app "
        "that did not start."
    ),
    "reload_failed": (
        "error: The new version did not start; `reason`, or `boot_failed` before it, says why. What runs goes on; "
        "`note` says which version a process that starts from now on has."
    ),
    "reload_refused": (
        "warning or error: The reload did not begin; `reason` says why. The old version goes on."
    ),
    "reloaded": "info: Every process runs the new version.",
    "reloading": "info: A reload began.",
    "scale_kept": "info: A reload kept the number of processes that `flowherd ctl scale` had set.",
    "scale_refused": "warning: The number is out of range. The old number stays.",
    "scaling": "info: The number of processes changes.",
    "segment_damaged": (
        "error: Code in that process overwrote flowherd's shared memory. The process is replaced, and its "
        "activities are requeued as after a crash. Suspect an extension that writes beyond its buffers."
    ),
    "stacks_of_dead_process": "error: The stacks of a process that was ended because it blocked.",
    "starting": "info: flowherd starts: versions, sizes and settings that matter.",
    "supervisor_error": "error: A defect in flowherd. Please report it.",
    "unasked_fork": "error: A defect in flowherd. Please report it.",
    "unreadable_message": "error: A defect in flowherd. Please report it.",
    "work_given_back": "warning: A stop ran out of time. The engine hands these activities out again.",
    "worked_off": "info: `--burst`: no work for `idle_s` seconds. The host drains and exits.",
}
