"""`python tests/chaos/mutations.py`: switches one protection off at a time, in a copy, and demands a red test (M19)."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]
WORKER, SUPERVISOR = "worker/flowherd/", "supervisor/flowherd_supervisor/"
ENGINE = "supervisor/flowherd_engine/"
SYSTEM, CHAOS = "tests/system/", "tests/chaos/"
UNIT, BRAIN = "tests/worker/", "tests/supervisor/"
ADOPTED = (
    "leases/test_adoption.py"
    "::test_a_claim_is_begun_at_most_once_and_never_lost_whoever_dies_at_whatever_store[0]"
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A protection, the change that disables it, and the test that must fail then."""

    protection: str
    path: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "values under telling names are masked",
        WORKER + "sdk/redaction.py",
        "any(part in plain for part in self._parts)",
        "False",
        UNIT + "sdk/test_secrets.py::test_a_parameter_with_a_telling_name_is_masked_in_message_and_log",
    ),
    Mutation(
        "secrets are taken out before a text is cut",
        WORKER + "sdk/error_texts.py",
        "clean_message(hide(_describe(exc)))",
        "hide(clean_message(_describe(exc)))",
        UNIT + "sdk/test_secrets.py::test_the_place_where_a_text_is_cut_shows_no_half_of_a_secret",
    ),
    Mutation(
        "variables with telling names are masked",
        WORKER + "sdk/redaction.py",
        "        *secrets_of_process(environment.secret_names),\n",
        "",
        UNIT + "sdk/test_secrets.py::test_a_variable_with_a_telling_name_is_masked",
    ),
    Mutation(
        "a worker_id for every poll",
        WORKER + "worker/poller.py",
        'f"{self._prefix}-{self._polls}"',
        'f"{self._prefix}-0"',
        UNIT + "worker/test_poller.py::test_every_poll_has_a_worker_id_of_its_own",
    ),
    Mutation(
        "no turn is left to a process that is frozen",
        WORKER + "worker/sibling_processes.py",
        "and self.next_poll_at >= now - OVERDUE_S",
        "",
        UNIT + "worker/test_poll_policy.py::test_no_turn_is_left_to_a_sibling_that_has_missed_its_own",
    ),
    Mutation(
        "a turn that was left is taken back when nobody comes",
        WORKER + "worker/poll_turns.py",
        "if polled_at <= pace.woke_at:",
        "if False:",
        UNIT + "worker/test_poll_policy.py::test_a_busier_process_leaves_its_turn_to_the_freest_sibling",
    ),
    Mutation(
        "a process asks for little until it has found more than that",
        WORKER + "worker/poll_turns.py",
        "min(wanted, pace.ramp)",
        "wanted",
        UNIT + "worker/test_poll_policy.py::test_heavy_activities_queued_at_once_spread_over_the_children",
    ),
    Mutation(
        "heartbeats of the keeper",
        WORKER + "leases/lease_scan.py",
        "self._heartbeats.attend([*held, *self._adoptions.waiting], now)",
        "pass",
        SYSTEM + "test_leases.py::test_a_frozen_worker_keeps_its_leases_and_goes_on_afterwards",
    ),
    Mutation(
        "a verdict is for the record that was asked about",
        WORKER + "leases/heartbeats.py",
        "if present is None or present.sequence != record.sequence or not segment.readable:",
        "if present is None or not segment.readable:",
        UNIT
        + "leases/test_beats_first.py"
        + "::test_an_answer_that_comes_late_says_nothing_about_the_next_activity_in_the_same_place",
    ),
    Mutation(
        "a number that pydantic nulls is found",
        WORKER + "sdk/json_conversion.py",
        "if may_lose_numbers(dumped, type(model)) and",
        "if False and",
        UNIT + "sdk/test_output_models.py::test_a_number_that_json_has_not_is_named_in_any_field",
    ),
    Mutation(
        "no model is made of parameters that mean something else",
        WORKER + "sdk/parameter_model_types.py",
        "return bool(value.model_fields_set)",
        "return True",
        UNIT
        + "sdk/test_binding_models.py::test_a_model_whose_fields_all_have_defaults_is_not_filled_from_nothing",
    ),
    Mutation(
        "many beats at once",
        WORKER + "leases/heartbeats.py",
        "self._under_way < PLACES:",
        "self._under_way < PLACES // 4:",
        UNIT + "leases/test_beats_first.py::test_400_leases_of_3_s_outlive_an_engine_that_is_slow",
    ),
    Mutation(
        "places that beats cannot take again and again",
        WORKER + "leases/heartbeats.py",
        "self._again < _AGAIN and ",
        "",
        UNIT + "leases/test_beats_first.py::test_unanswered_heartbeats_do_not_delay_answered_ones",
    ),
    Mutation(
        "few beats in a silence",
        WORKER + "leases/heartbeats.py",
        " and self._contact.may_try_again(now, self._shortest_lease_s)",
        "",
        UNIT + "leases/test_beats_first.py::test_an_outage_is_no_storm_and_its_end_is_found_soon",
    ),
    Mutation(
        "polls wait for leases that may have lapsed",
        WORKER + "leases/poll_hold.py",
        "self._ledger.put(_UNCONFIRMED, count)",
        "self._ledger.put(_UNCONFIRMED, 0)",
        UNIT + "leases/test_poll_hold.py::test_n6_nothing_runs_twice_after_an_outage",
    ),
    Mutation(
        "polls wait for a keeper that has stood still",
        WORKER + "leases/poll_hold.py",
        "return self._looks <= _LOOKS",
        "return False",
        UNIT + "leases/test_poll_hold.py::test_nothing_runs_twice_after_everything_has_stood_still",
    ),
    Mutation(
        "the poller waits when polls have to",
        WORKER + "worker/poller.py",
        "or not wanted or self._polls_wait():",
        "or not wanted:",
        UNIT + "leases/test_poll_hold.py::test_n6_nothing_runs_twice_after_an_outage",
    ),
    Mutation(
        "a secret that is read again",
        WORKER + "client/bearer_tokens.py",
        "if not await self._has_another_secret():",
        "if True:",
        UNIT + "client/test_auth.py::test_the_secrets_file_is_read_again_when_the_token_endpoint_refuses",
    ),
    Mutation(
        "retries of complete",
        WORKER + "worker/reporter.py",
        "            done = delivery.failed(error, self._loop.time(), self._limit_s)",
        "            done = delivery.failed(error, self._loop.time(), self._limit_s) and Delivered.DROPPED",
        CHAOS + "test_partitions.py::test_a_partition_within_the_lease_costs_nothing",
    ),
    Mutation(
        "a proxy's answer is no verdict",
        WORKER + "client/reply_classifier.py",
        "    if not is_engines(reply):",
        "    if status not in _ENGINES_OWN and status != 404:",
        UNIT + "client/test_kruxia.py::test_a_proxys_answer_is_no_verdict",
    ),
    Mutation(
        "a proxy's answers are tried again for ten minutes",
        WORKER + "worker/delivery.py",
        "if now < self._since[kind] + for_s or not (is_too_large or self.lease_lives()):",
        "if False:",
        UNIT
        + "worker/test_reporter_proxies.py::test_a_computed_success_outlives_a_proxy_that_answers_for_a_while",
    ),
    Mutation(
        "without heartbeats a result waits for the end of an outage",
        WORKER + "worker/delivery.py",
        "or not (is_too_large or self.lease_lives())",
        "",
        UNIT + "worker/test_between.py::test_without_heartbeats_a_result_waits_for_the_end_of_the_outage",
    ),
    Mutation(
        "an error of one call alone opens no circuit",
        WORKER + "client/circuit.py",
        " and not error.is_of_the_call",
        "",
        UNIT + "worker/test_reporter_proxies.py::test_an_error_of_one_call_delays_no_other_call",
    ),
    Mutation(
        "large bodies leave senders to light ones",
        WORKER + "worker/reporter.py",
        "if self._large and self._large_left:",
        "if self._large:",
        UNIT
        + "worker/test_reporter_proxies.py::test_only_some_senders_carry_large_bodies_and_light_ones_pass_them",
    ),
    Mutation(
        "deadlines follow the bytes",
        WORKER + "transport/stall_detection.py",
        "(self._size + received) / self._bytes_per_s",
        "0.0",
        UNIT + "transport/test_slow_link.py::test_what_moves_may_go_on_until_its_bytes_are_late",
    ),
    Mutation(
        "a connection for polls",
        WORKER + "transport/connection_pool.py",
        "if self._held < self._most + is_first:",
        "if self._held < self._most:",
        UNIT + "transport/test_slow_link.py::test_polls_never_queue_behind_results",
    ),
    Mutation(
        "the next address while the first says nothing",
        WORKER + "transport/dialing.py",
        "NEXT_AFTER_S = 0.25",
        "NEXT_AFTER_S = 1000.0",
        UNIT + "transport/test_pool_dialing.py::test_the_next_address_is_tried_while_the_first_says_nothing",
    ),
    Mutation(
        "a turn of its own for what may block",
        WORKER + "execution/on_loop.py",
        "return perf_counter() < self._turn_until and self._meter.is_light(name)",
        "return perf_counter() < self._turn_until",
        UNIT
        + "execution/test_on_loop.py"
        + "::test_a_handler_that_is_not_known_to_be_light_begins_a_turn_of_its_own",
    ),
    Mutation(
        "the check for NUL",
        WORKER + "sdk/output.py",
        'if b"\\\\u0000" in body and plain:',
        "if False:",
        UNIT + "sdk/test_outputs.py::test_what_the_engine_refuses_or_stores_wrongly_is_found_here",
    ),
    Mutation(
        "the end of the link",
        WORKER + "process/supervisor_commands.py",
        "            self._order(Release(ORPHAN_RELEASE_S))\n            threading.Event().wait(ORPHAN_EXIT_S)",
        "            return",
        CHAOS + "test_orphans.py::test_workers_end_by_themselves_when_the_supervisor_is_gone",
    ),
    Mutation(
        "the keeper's last minute",
        SUPERVISOR + "keeper/orphans.py",
        "not has_ended and _signal(pidfd, signal.SIGKILL)",
        "not has_ended",
        CHAOS + "test_orphans.py::test_the_keeper_ends_what_holds_the_gil",
    ),
    Mutation(
        "all orphans at once, whatever has ended",
        SUPERVISOR + "keeper/orphans.py",
        "    except ProcessLookupError:\n        return False\n    return True",
        "    except ZeroDivisionError:\n        return False\n    return True",
        BRAIN
        + "keeper/test_orphans.py::test_before_linux_6_9_the_group_of_a_leader_that_has_ended_is_left_alone",
    ),
    Mutation(
        "the keeper's last deadline",
        SUPERVISOR + "keeper/orphans.py",
        "    signal.setitimer(signal.ITIMER_REAL, KEEPER_ENDS_AFTER_S)",
        "    pass",
        BRAIN + "keeper/test_orphans.py::test_n1_the_keeper_ends_whatever_blocks_it",
    ),
    Mutation(
        "the end of an isolate's programs with the supervisor",
        SUPERVISOR + "keeper/orphans.py",
        "            yield _kill_group(pid, pidfd)",
        "            continue",
        BRAIN + "keeper/test_orphans.py::test_an_isolates_programs_end_with_it",
    ),
    Mutation(
        "the isolate's group killed at reap",
        SUPERVISOR + "processes/process_table.py",
        "                if pid in self._isolates:\n                    _kill_with_programs(pid)\n",
        "",
        BRAIN + "processes/test_processes.py::test_a_reaped_isolates_programs_have_ended_with_it",
    ),
    Mutation(
        "the link thread that survives a bad order",
        WORKER + "process/supervisor_commands.py",
        "        except Exception:\n            log.exception",
        "        except ZeroDivisionError:\n            log.exception",
        UNIT
        + "test_background.py::test_n1_an_order_that_cannot_be_read_or_obeyed_does_not_make_a_worker_deaf",
    ),
    Mutation(
        "the catch-all around a funeral",
        SUPERVISOR + "shell/supervisor.py",
        "cause = contained(partial(self._cause, handle, status, running), Cause.of_status(status))",
        "cause = self._cause(handle, status, running)",
        BRAIN
        + "shell/test_supervisor_shell.py::test_p16_a_defect_while_an_exit_is_handled_affects_no_other_exit",
    ),
    Mutation(
        "an end that is told again",
        SUPERVISOR + "shell/supervisor.py",
        "self._undecided.append(event)",
        "pass",
        BRAIN + "shell/test_supervisor_shell.py::test_p16_an_exit_on_which_decide_failed_is_fed_again",
    ),
    Mutation(
        "the look for damaged segments",
        SUPERVISOR + "shell/segment_checks.py",
        "found, self._unread[segment.number] = damage_in(segment, self._unread.get(segment.number, {}))",
        "found = ''",
        BRAIN + "shell/test_scribbled.py::test_a_damaged_segment_is_named_and_what_can_be_read_is_settled",
    ),
    Mutation(
        "counters that move one by one",
        WORKER + "ledger/ledger.py",
        "                _clear(segment, number)\n",
        "",
        UNIT
        + "ledger/test_totals.py::test_a_keeper_that_dies_at_any_store_lowers_no_sum_and_repeats_one_counter_at_most",
    ),
    Mutation(
        "sums that garbage cannot spoil",
        WORKER + "ledger/ledger.py",
        "return self._sums[index * _WIDTH + total] if index < self.processes else 0",
        "return self._sums[index * _WIDTH + total]",
        BRAIN + "shell/test_scribbled.py::test_an_overwritten_segment_costs_only_its_process",
    ),
    Mutation(
        "settlement of what a dead process held",
        WORKER + "leases/lease_scan.py",
        "self._tasks.spawn(self._settle(segments))",
        "pass",
        CHAOS
        + "test_crash_points.py::test_a_worker_that_dies_at_a_named_point_costs_at_most_an_attempt[after_claim]",
    ),
    Mutation(
        "results kept in the ledger",
        WORKER + "leases/settlement.py",
        "if record.claim is Claim.REPORTING else None",
        "if False else None",
        CHAOS + "test_host_faults.py::test_a_worker_killed_in_mid_report_has_one_completion",
    ),
    Mutation(
        "a decision about an adoption is made once",
        WORKER + "ledger/adoption_cells.py",
        "if earlier := self.decision(record):",
        "if (earlier := self.decision(record)) < 0:",
        UNIT + "ledger/test_adoption_cells.py::test_a_decision_is_never_changed",
    ),
    Mutation(
        "whoever adopts begins on the keeper's word alone",
        WORKER + "worker/adopter.py",
        "if standing is Standing.UNKNOWN:\n                continue\n",
        "if standing is Standing.UNKNOWN:\n                standing = Standing.GOOD\n",
        UNIT + ADOPTED,
    ),
    Mutation(
        "whoever adopts does not begin what was given to another one",
        WORKER + "leases/adoption.py",
        "self._judge(segment, record, Standing.GONE)",
        "self._judge(segment, record, Standing.GOOD)",
        UNIT + ADOPTED,
    ),
    Mutation(
        "only a living process adopts",
        WORKER + "leases/adoption.py",
        "and segment.life is Life.LIVE and not _is_lost(donor)",
        "and not _is_lost(donor)",
        UNIT + ADOPTED.removesuffix("[0]"),
    ),
    Mutation(
        "a lost claim is adopted by nobody",
        WORKER + "leases/adoption.py",
        "and segment.life is Life.LIVE and not _is_lost(donor)",
        "and segment.life is Life.LIVE",
        UNIT + ADOPTED,
    ),
    Mutation(
        "the next keeper does what the last one has decided",
        WORKER + "leases/adoption.py",
        "else self._ledger.record_of(sequence)",
        "else None",
        UNIT + ADOPTED,
    ),
    Mutation(
        "what may be adopted counts for nothing before the keeper's word",
        WORKER + "ledger/record.py",
        "return self.byte & (3 | ADOPTING) < _CLOSED",
        "return self.byte & 3 < _CLOSED",
        UNIT + ADOPTED,
    ),
    Mutation(
        "a claim that a poll has brought again is not adopted beside it",
        WORKER + "worker/adopter.py",
        "if standing is Standing.GOOD and not self._is_claimed_anew(adopted):",
        "if standing is Standing.GOOD:",
        UNIT + "worker/test_adopter.py::test_a_claim_that_a_poll_has_brought_again_is_not_adopted_beside_it",
    ),
    Mutation(
        "what has not begun is left to others at the end of a drain",
        WORKER + "worker/attempt_coordinator.py",
        "for attempt in self._table.owed() if others_go_on else ():",
        "for attempt in ():",
        UNIT
        + "worker/test_attempts_release.py"
        + "::test_what_has_not_begun_is_left_to_others_when_they_go_on_and_can_read_it",
    ),
    Mutation(
        "the record before the start",
        WORKER + "ledger/record_writer.py",
        "self._states[index] = _WAITING if adopted is None else WAITS_FOR_WORD",
        "self._states[index] = _FREE",
        CHAOS
        + "test_crash_points.py::test_a_worker_that_dies_at_a_named_point_costs_at_most_an_attempt[after_claim]",
    ),
    Mutation(
        "the budget of the host",
        SUPERVISOR + "core/slot_shares.py",
        "free = state.plan.concurrency - sum(worker.charge for worker in transition.state.workers)",
        "free = state.plan.concurrency",
        "tests/supervisor/core/test_slot_shares_histories.py",
    ),
    Mutation(
        "the hang rule",
        SUPERVISOR + "shell/ledger_watch.py",
        "if one := guilty_of_hang(past_limit, state.plan.cancel_grace_s):",
        "if one := None:",
        SYSTEM + "test_leases.py::test_a_loop_that_hangs_beyond_its_limit_is_ended_and_the_guilty_named",
    ),
    Mutation(
        "a freeze of the supervisor's own is no time",
        WORKER + "awake_clock.py",
        "self._lost_s += gap_s",
        "pass",
        "tests/supervisor/core/test_freezes.py::"
        "test_n4_a_freeze_longer_than_the_limit_ends_no_process_but_the_limit_does",
    ),
    Mutation(
        "a keeper is late before the supervisor's own eyes",
        SUPERVISOR + "core/hangs.py",
        "late_s = min(tick_age_s, awake_s - keeper.ready_at, seen_s)",
        "late_s = min(tick_age_s, awake_s - keeper.ready_at)",
        "tests/supervisor/shell/test_ledger_watch.py::"
        "test_n4_a_keeper_that_was_frozen_along_is_not_late_when_the_supervisor_goes_on",
    ),
    Mutation(
        "an activity hangs before the supervisor's own eyes",
        SUPERVISOR + "core/hangs.py",
        "if min(one.late_s, one.seen_s) > patience_s",
        "if one.late_s > patience_s",
        "tests/supervisor/shell/test_ledger_watch.py::test_n4_an_activity_is_not_taken_for_hung_because_of_a_freeze",
    ),
    Mutation(
        "waits in steps while somebody is judged",
        SUPERVISOR + "shell/supervisor.py",
        "wait_s = min(wait_s, STEP_S)",
        "pass",
        "tests/supervisor/core/test_freezes.py::"
        "test_n4_a_freeze_longer_than_the_limit_ends_no_process_but_the_limit_does",
    ),
    Mutation(
        "a freeze uses up no limit and no grace",
        WORKER + "worker/attempt_coordinator.py",
        "self._table.stood_still((self._frozen_us - known_us) / 1e6)",
        "pass",
        "tests/chaos/test_freezes.py::test_n4_a_freeze_costs_no_handler_its_time",
    ),
    Mutation(
        "closed streams are opened before anything else",
        WORKER + "process/open_standard_streams.py",
        "os.open(os.devnull, os.O_RDWR)  # gets the lowest free number",
        "continue",
        UNIT
        + "process/test_open_standard_streams.py::"
        + "test_n14_a_closed_stream_is_dev_null_and_nothing_else_gets_its_number",
    ),
    Mutation(
        "a kill of ours is named as ours",
        SUPERVISOR + "processes/process_table.py",
        "ours = OURS if was_killed and status & 0x7F == signal.SIGKILL else 0",
        "ours = 0",
        "tests/supervisor/processes/test_processes.py::"
        "test_p11_only_what_has_not_been_reaped_can_be_signalled_and_a_kill_of_ours_is_ours",
    ),
    Mutation(
        "the watch over the keeper",
        SUPERVISOR + "shell/ledger_watch.py",
        "yield events.KeeperLate(keeper.number, keeper.incarnation, late_s)",
        "return",
        SYSTEM + "test_leases.py::test_a_frozen_keeper_is_replaced_before_a_lease_is_lost",
    ),
    Mutation(
        "verdicts about lost leases",
        WORKER + "worker/attempt_coordinator.py",
        "not in FINAL:\n                continue",
        "not in FINAL or True:\n                continue",
        UNIT
        + "worker/test_attempts_lost.py::test_a_lost_lease_cancels_the_handler_reports_nothing_and_frees_the_slot",
    ),
    Mutation(
        "poison",
        WORKER + "leases/suspects.py",
        "return 0 < poison_after <= deaths and",
        "return poison_after < 0 and",
        SYSTEM + "test_leases.py::test_a_poison_is_found_among_its_neighbours_and_they_all_complete",
    ),
    Mutation(
        "neighbours that waited are no suspects",
        WORKER + "leases/suspects.py",
        "return Part.AGAIN if deaths_before else Part.WAITED",
        "return Part.AGAIN",
        CHAOS + "test_poison.py::test_n31_sleepers_of_a_killed_process_start_again_as_usual",
    ),
    Mutation(
        "a kill from outside of an isolate that waits is no proof",
        WORKER + "isolates/inside/wait_notes.py",
        "self._keeper.note_wait(waits=True)",
        "self._keeper.note_wait(waits=False)",
        CHAOS
        + "test_poison.py::test_n31_an_isolate_that_is_killed_from_outside_while_it_waits_is_not_charged",
    ),
    Mutation(
        "delays of the retry circuit",
        WORKER + "client/circuit.py",
        "self._probes_at = now + self._delay_s(error, now - self._opened_at)",
        "self._probes_at = now",
        CHAOS + "test_partitions.py::test_results_that_wait_for_the_engine_are_few_calls_and_all_delivered",
    ),
    Mutation(
        "the end of copies made by a fork",
        WORKER + "end_forked_copies.py",
        "        _is_copy = True",
        "        _is_copy = False",
        CHAOS + "test_hostile_activities.py::test_a_grandchild_that_returns_from_its_handler_ends_there",
    ),
    Mutation(
        "the watch over descriptors",
        SUPERVISOR + "core/recycling.py",
        "FULL = 0.9",
        "FULL = 9.0",
        CHAOS
        + "test_hostile_activities.py::test_a_process_that_has_leaked_its_descriptors_is_named_and_replaced",
    ),
    Mutation(
        "sums of money that a dead process had spent",
        WORKER + "leases/settlement.py",
        "replace(failure, cost_usd=cost_usd, usage=usage)",
        "replace(failure, cost_usd=None, usage=())",
        SYSTEM + "test_mortal.py::test_what_a_killed_process_had_spent_is_charged_once",
    ),
    Mutation(
        "two slots for sums of money",
        WORKER + "ledger/usage_page.py",
        "turns.index(min(turns)) * _SLOT_BYTES",
        "0",
        UNIT + "sdk/test_usage.py::test_a_write_that_a_crash_tears_leaves_the_sums_before",
    ),
    Mutation(
        "permits that processes share",
        WORKER + "ledger/host_permits.py",
        "self._locks.try_lock(_byte_of(permit))",
        "_byte_of(permit)",
        SYSTEM
        + "test_max_concurrent.py"
        + "::test_one_at_a_time_means_one_on_the_whole_host_also_when_its_process_is_killed",
    ),
    Mutation(
        "a wait that nothing explains ends",
        WORKER + "worker/backlog.py",
        "return Overdue(waited_s, self.reason(attempt), is_new, limit_at <= now)",
        "return Overdue(waited_s, self.reason(attempt), is_new, is_over=False)",
        UNIT
        + "worker/test_admission_starves_nobody.py"
        + "::test_what_does_not_begin_is_named_once_and_requeued_after_its_limit",
    ),
    Mutation(
        "few isolates for suspects",
        WORKER + "worker/executor_choice.py",
        "range(self._config.suspects_at_once)",
        "range(1 << 10)",
        UNIT
        + "worker/test_attempts_apart.py"
        + "::test_n13_the_limit_of_suspects_in_isolates_is_one_for_all_processes_of_a_host",
    ),
    Mutation(
        "secrets in what an isolate logs",
        WORKER + "logs.py",
        "    _hide = hide\n",
        "",
        "tests/worker/test_logs.py::test_a_process_whose_log_lines_go_elsewhere_masks_those_of_every_logger",
    ),
    Mutation(
        "no work for an isolate whose kill is on the way",
        WORKER + "isolates/isolate.py",
        "if self._times_stopped or self._killed_for or",
        "if self._times_stopped or",
        UNIT
        + "isolates/test_isolates.py"
        + "::test_an_isolate_that_is_killed_for_its_memory_gets_no_other_activity",
    ),
    Mutation(
        "what a shell has put into the background is seen",
        WORKER + "isolates/inside/leftovers.py",
        "        _adopt_orphans()\n",
        "",
        UNIT
        + "isolates/test_isolate_leftovers.py"
        + "::test_what_an_activity_leaves_behind_never_meets_the_next_one[program_in_the_background]",
    ),
    Mutation(
        "a stop that reaches the handler of an isolate",
        WORKER + "isolates/inside/worker_connection.py",
        "if (state := self._state) is not None:",
        "if (state := self._state) is None:",
        UNIT + "isolates/test_isolates_live.py::test_a_computing_def_is_interrupted_where_it_stands",
    ),
    Mutation(
        "a stop that reaches the handler of an isolate after a freeze",
        WORKER + "isolates/inside/worker_connection.py",
        "signal.pthread_kill(main_thread, signal.SIGTERM)",
        "pass",
        UNIT + "isolates/test_isolates_live.py"
        "::test_n4_a_stop_reaches_a_handler_whose_thread_has_not_yet_run_after_a_freeze",
    ),
    Mutation(
        "an isolate as it was before",
        WORKER + "isolates/inside/leftovers.py",
        "            self._put_back()\n",
        "",
        UNIT
        + "isolates/test_isolate_leftovers.py::test_what_an_activity_leaves_behind_never_meets_the_next_one[umask]",
    ),
    Mutation(
        "the end of an isolate that prints for ever",
        WORKER + "isolates/isolate.py",
        "self._set_timer(MARK_S,",
        "self._set_timer(3600 * MARK_S,",
        UNIT
        + "isolates/test_isolates.py::test_n15_one_that_prints_for_ever_is_killed_a_second_after_its_activity",
    ),
    Mutation(
        "no second activity after a SIGTERM",
        WORKER + "isolates/isolate.py",
        "if self._times_stopped or self._killed_for or",
        "if self._killed_for or",
        UNIT + "isolates/test_isolates.py::test_an_isolate_that_was_told_to_stop_never_gets_another_activity",
    ),
    Mutation(
        "the peer's user on the unix socket",
        SUPERVISOR + "keeper/http_server.py",
        "if is_unix and not is_own_user(sock):",
        "if False:",
        "tests/supervisor/keeper/test_keeper_connections.py"
        "::test_another_users_process_is_refused_on_the_unix_socket",
    ),
    Mutation(
        "idle clients of the admin port give way",
        SUPERVISOR + "keeper/http_server.py",
        "idle = next((one for one in inside if not one.is_served), None)",
        "idle = None",
        "tests/supervisor/keeper/test_keeper_connections.py"
        "::test_an_idle_client_gives_way_to_a_newer_one_and_the_log_has_one_line",
    ),
    Mutation(
        "the look at an isolate's output",
        WORKER + "isolates/isolated_attempt.py",
        '_checked_output(output) if failure is None else b""',
        "bytes(output)",
        UNIT + "isolates/test_isolates.py::test_a17_an_output_that_is_no_object_is_garbage_too",
    ),
    Mutation(
        "a template repeats no list",
        ENGINE + "expressions.py",
        '_TIMES = "|_number * - - "',
        '_TIMES = " * "',
        "tests/engine/test_engine_templates.py::test_nonsense_is_a_template_error",
    ),
    Mutation(
        "an entry that is written over while it is read does not count",
        WORKER + "ledger/ring.py",
        "lost = min(max(self.written + 1 - self.slots - first, 0), max(end - first, 0))",
        "lost = 0",
        UNIT + "ledger/test_ring.py::test_what_is_written_over_while_it_is_read_does_not_count",
    ),
    Mutation(
        "what a dead process had is in the history of the host",
        WORKER + "leases/settlement.py",
        "        remember(self._ledger, segment, record, ended_at, self._clock(), failure, end)\n",
        "",
        UNIT + "leases/test_settlement.py"
        "::test_the_last_happenings_of_a_dead_process_are_in_the_history_of_the_host",
    ),
    Mutation(
        "the client's secret is shown to the configured engine alone",
        SUPERVISOR + "cli/explain.py",
        "if config.client_id and is_own else None",
        "if config.client_id else None",
        BRAIN + "cli/test_explain.py::test_the_configured_secret_is_shown_to_the_configured_engine_alone",
    ),
    Mutation(
        "a template's MemoryError is its step's own",
        ENGINE + "scheduling.py",
        "msgspec.MsgspecError, OverflowError, MemoryError)",
        "msgspec.MsgspecError, OverflowError)",
        "tests/engine/test_engine_workflows.py::test_a_step_for_which_there_is_no_memory_fails_alone",
    ),
)


def main() -> int:
    """Tries every mutation; returns 0 when each made its test fail, and every test passes without one."""
    parser = argparse.ArgumentParser(description="Which test notices which protection?")
    parser.add_argument("--only", default="", help="a part of the protection's name")
    parser.add_argument("--quick", action="store_true", help="those whose test starts no program")
    options = parser.parse_args()
    wanted = [
        mutation
        for mutation in MUTATIONS
        if options.only in mutation.protection and (not options.quick or mutation.test.startswith(UNIT))
    ]
    with tempfile.TemporaryDirectory(prefix="mut-") as folder:
        copy = Path(folder) / "c"
        for name in ("worker", "supervisor", "tests", "pyproject.toml", "README.md"):
            source = TOP / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
            else:
                copy.mkdir(exist_ok=True)
                shutil.copy(source, copy / name)
        results = [_tried(mutation, copy, Path(folder)) for mutation in wanted]
    print(f"{sum(results)} of {len(results)} protections have a test that goes red without them")
    return 0 if all(results) else 1


def _tried(mutation: Mutation, copy: Path, folder: Path) -> bool:
    path = copy / mutation.path
    text = path.read_text()
    if text.count(mutation.old) < 1:
        print(f"STALE  {mutation.protection}: its text is not in {mutation.path} any more", flush=True)
        return False
    started_at = time.monotonic()
    green = _passes(mutation.test, copy, folder)
    path.write_text(text.replace(mutation.old, mutation.new, 1))
    try:
        red = green and not _passes(mutation.test, copy, folder)
    finally:
        path.write_text(text)
    word = "red   " if red else "BROKEN" if not green else "GREEN "
    print(
        f"{word} {mutation.protection:40} {mutation.test}  ({time.monotonic() - started_at:.0f} s)",
        flush=True,
    )
    return red


def _passes(test: str, copy: Path, folder: Path) -> bool:
    """True if a test passes against the copy; any result but passed and failed is an error of this script."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder / 't'}",
        test,
    ]
    paths = os.pathsep.join([str(copy / "worker"), str(copy / "supervisor")])
    done = subprocess.run(
        words, cwd=copy, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1}:
        sys.exit(f"{test} did not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
