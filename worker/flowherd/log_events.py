"""The events that a worker or the keeper logs, for the reference; nothing reads them at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# An event → "level: meaning". "warning or error": the level says whether somebody has to act.
WORKER_EVENTS: Mapping[str, str] = {
    "activities_without_id": (
        "error: The engine sent `count` activities without an id. flowherd cannot even refuse them; their "
        "leases end."
    ),
    "activity_adopted": (
        "info: Process `from_process` ended before this activity had begun. This process goes on with it."
    ),
    "activity_at_work": (
        "info: Part of `flowherd ctl stacks`: an activity that runs, and for how long (`for_s`)."
    ),
    "activity_cancelled": (
        "warning: Somebody ran `flowherd ctl cancel`. It failed for good, or goes back to the engine where "
        "`requeued` is true."
    ),
    "activity_claimed_again": (
        "warning: The engine handed out an activity that this host still holds. Check that `--default-"
        "lease` is the engine's own value, and that the engine was reachable."
    ),
    "activity_completed": (
        "debug, or info with `--log-activities`: The handler returned. `took_s` is its run time, `waited_s`"
        " the wait before it."
    ),
    "activity_failed": (
        "warning or error: An attempt failed. `code`, `reason` and `at` say why and where. A warning is "
        "retried, an error is not."
    ),
    "activity_not_begun": (
        "warning: Claimed `waited_s` ago and not begun. `reason` names what is missing: slots, permits of "
        "`max_concurrent`, isolates, or an earlier run of it. After its limit it returns to the engine as "
        "`WORKER_OVERLOADED`, unless others of its name begin."
    ),
    "activity_out_of_attempts": (
        "error: The engine says that this failure was the last attempt. The workflow has failed, unless it "
        "handles that."
    ),
    "activity_settled": (
        "warning: The keeper reported an activity of a dead process, and it was no failure: see `outcome`."
    ),
    "activity_stderr": "warning: A `line` that an activity in an isolate wrote to stderr.",
    "activity_stdout": "info: A `line` that an activity printed.",
    "activity_unknown_to_engine": "error: The engine does not know the activity. The workflow may be gone.",
    "admin_port_crowded": (
        "warning: More clients than the admin port serves at once. It drops those without a complete "
        "request. Activities are not affected."
    ),
    "admin_port_quiet": "info: The admin port has room again; `turned_away` clients were dropped.",
    "advice": "info: `flowherd advise` has a new verdict about an activity: `verdict` and `reason`.",
    "cancel_ignored": (
        "warning: Code of an activity, of the app or of a library cancelled tasks of flowherd itself, such as by "
        "`asyncio.all_tasks()`. They go on; handlers that it cancelled too fail as `TASK_CANCELLED`. `name` and "
        "`at` say which code, as far as it is known. Cancel only tasks that you have started."
    ),
    "cancels_do_not_stop": (
        "error: It happened `count` times in `within_s` seconds. The process ends and is replaced; "
        "`python -m flowherd` requeues its work and ends. See the `cancel_ignored` lines."
    ),
    "checkpoint_ignored": (
        "warning: The stored checkpoint could not be read. The activity starts from the beginning."
    ),
    "client_secret_read_again": (
        "info: The engine refused the credentials, so the secret's file was read again."
    ),
    "completion_not_ours_any_more": (
        "warning: The engine had given the activity to another worker. The result is dropped."
    ),
    "completion_warnings": "warning: The engine accepted the result with `warnings`.",
    "engine_healthy_again": "info: The part of the engine that schedules is healthy again.",
    "engine_misconfigured": (
        "error: The URL, or what answers there, is wrong. `reason` has URL and status. Checked again by "
        "itself."
    ),
    "engine_reachable_again": "info: The engine answers again, after `after_s` seconds.",
    "engine_refuses_our_token": (
        "warning: The engine refused a fresh token. Check `--client-id` and the secret."
    ),
    "engine_unhealthy": (
        "warning: The engine says that it is ready, but the part of it that schedules is not. Restart the "
        "engine."
    ),
    "engine_unreachable": (
        "warning: The engine does not answer; `reason` says why. Calls resume by themselves."
    ),
    "delivery_not_acknowledged": (
        'warning: The engine answered `"acknowledged": false`. The outcome is kept and sent again for '
        "`tried_again_for_s`, or until the lease ends."
    ),
    "failure_given_up": "error: The engine accepted a failure in none of `tries` tries. The lease ends instead.",
    "failure_refused_by_engine": "error: The engine refused the report of a failure; `reason` says why.",
    "file_transfer_failed": "info: A file transfer failed `failures` times so far; it is tried again.",
    "gil_enabled": "warning: `module` switched the GIL on in a process that works in threads. See `remedy`.",
    "giving_up": "error: `python -m flowherd` ends: exit code and reason.",
    "heartbeat_refused": "error: The engine refused a heartbeat; `reason` says why.",
    "heartbeats_fail": "warning: Heartbeats fail; `reason` says why. They are repeated until they succeed.",
    "internal_error": "error: A defect in flowherd. Work goes on. Please report it with the traceback.",
    "isolate_did_not_start": "error: An isolate could not be started. Only its activity fails.",
    "isolate_died": "warning: An isolate died. Only its activity fails.",
    "isolate_replaced": (
        "info: An activity changed its isolate, as `reason` says. A new isolate takes its place."
    ),
    "late_success_dropped": (
        "warning: A handler was cancelled, and returned a result too late. Raise its limit, or make it stop"
        " earlier."
    ),
    "lease_lost": (
        "warning: The engine gave the activity to another worker. Check that `--default-lease` is the "
        "engine's own value, and that the engine was reachable."
    ),
    "lease_too_short": (
        "warning: A heartbeat takes a third of the lease or more. Give the step a longer `timeout_seconds`."
    ),
    "lifespan_did_not_end": "warning: The lifespan's clean-up took longer than the drain had left.",
    "lifespan_raised": "error: The lifespan's clean-up raised an exception.",
    "loop_blocked": (
        "warning: A handler keeps the event loop busy; `place` is the line. `flowherd advise` says where it"
        " should run."
    ),
    "loop_stop_ignored": (
        "warning: Code of an activity, of the app or of a library called `stop` on the event loop. The loop goes on. "
        "`name` and `at` say which code, as far as it is known."
    ),
    "outcome_not_taken_yet": (
        "warning: The engine accepts other results, but not this one. It is sent again every few seconds."
    ),
    "outcome_refused_by_a_proxy": (
        "warning: Something else answered in the engine's place: `reason` has URL, status and words. The "
        "outcome is sent again for `tried_again_for_s`."
    ),
    "outcome_too_large_for_a_proxy": (
        "warning: A proxy answered 413 in the engine's place. The outcome is sent again for "
        "`tried_again_for_s`."
    ),
    "output_not_delivered": (
        "error: The engine never took a result, for the reason given. A retryable failure is reported instead."
    ),
    "outcome_undelivered": (
        "error: A stop ran out of time before a result was delivered. The lease ends instead."
    ),
    "output_refused": "error: The engine refused the output; `reason` says why.",
    "pages_ended": "error: A defect in the status server. Please report it.",
    "parameters_not_taken": (
        "warning: The handler takes none of these `parameters`: a misspelt name in the definition, or "
        "leftovers."
    ),
    "permits_not_shared": "error: `max_concurrent` holds for each process alone; `reason` says why.",
    "poll_abandoned": (
        "warning: A stop cut off a poll. Activities it may have claimed return when their leases end."
    ),
    "poll_in_doubt": (
        "warning: A poll's answer was lost. Activities it may have claimed return when their leases end. "
        "Until a poll is answered, further ones are logged at debug."
    ),
    "polls_go_on": "info: Polls resume after `polls_wait`.",
    "polls_wait": (
        "warning: After an outage, `unconfirmed` leases may have ended, and a poll could take what this "
        "host still runs. Polls resume when the engine has confirmed the leases, after 10 s at most."
    ),
    "process_not_killed": (
        "error: The supervisor was killed, and the kernel does not end this process (a disk or device that "
        "does not answer). Its activities return when their leases end."
    ),
    "ready": "info: `python -m flowherd` is ready.",
    "records_unreadable": "error: Records of a dead process cannot be read. Their leases end instead.",
    "segment_unreadable": "error: The memory of a dead process cannot be read. Its leases end instead.",
    "settlement_delayed": "warning: The work of a dead process could not be requeued yet. It is tried again.",
    "settlement_given_up": "error: The work of a dead process could not be requeued. Its lease ends instead.",
    "settlement_incomplete": "error: A stop ran out of time before the work of dead processes was requeued.",
    "signal_received": "info: `python -m flowherd` received a signal.",
    "spent_after_the_outcome": (
        "warning: Money that no report contains: a task spent it after its handler ended."
    ),
    "spent_by_lost_attempt": "warning: Money that no report contains: the attempt's lease was lost.",
    "stack_of_task": "info: Part of `flowherd ctl stacks`: the stack of an asyncio task.",
    "stack_of_thread": "info: Part of `flowherd ctl stacks`: the stack of a thread.",
    "stdout": "info: A `line` that the app printed outside of activities.",
    "stopped": "info: `python -m flowherd` has stopped.",
    "stranger_refused": "warning: A process of another user tried to use the unix socket.",
    "streams_interrupted": "info: Streamed text cannot be delivered at the moment. Some of it is dropped.",
    "supervisor_gone": "warning: The supervisor was killed. Everything is requeued within 5 s.",
    "suspect_runs_alone": "warning: It may have ended a process. Now it runs alone in its process; see `POISON`.",
    "suspect_runs_in_isolate": "warning: It may have ended a process. Now it runs in an isolate; see `POISON`.",
    "task_tried_to_exit": "error: A task of a handler raised SystemExit. The process goes on.",
    "telemetry_delivered": "info: The collector accepts spans again.",
    "telemetry_not_started": "warning: Spans are off; `reason` says why.",
    "telemetry_undelivered": (
        "warning: The collector accepts no spans; `reason` says why. Activities do not wait."
    ),
    "thread_work_raised": "error: A defect in flowherd. Please report it.",
    "timeout_out_of_range": (
        "warning: `timeout_seconds` of the step makes no sense; `taken_as_s` is used instead."
    ),
    "token_granted": "info: The engine granted a token again.",
    "token_not_granted": (
        "warning: The engine granted no token. Before the first one, flowherd exits with 4 after `--auth-"
        "grace`; later it is treated as an outage."
    ),
    "unwise_setting": "warning: A setting is allowed but risky. `note` says why and what to change.",
    "workflow_stalled": (
        "warning: The engine took the result of `activity_key` and has not moved the workflow for a minute. "
        "Submit the workflow again."
    ),
}
