"""A few real forks: what a child inherits, and that its parent never loses or confuses one.

Each test is a separate program, since pytest has threads and flowherd refuses to fork beside them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.fork

PRELUDE = """
import functools, os, resource, select, signal, subprocess, sys, threading, time
from flowherd.wait_status import OURS
from flowherd.link.messages import Ready, decode_upward
from flowherd.link.link import Link, LinkClosed
from flowherd_supervisor.processes.process_table import Birth, Processes

processes = Processes()
print = functools.partial(print, flush=True)  # a child would write what is left once more
tell, listen = os.pipe()[::-1]

def birth(main, keep=()):
    return Birth("flowherd: test", (tell, *keep), main, expendable=True)

def say(*facts):
    os.write(tell, ("\\n".join(map(str, facts)) + "\\n").encode())

def heard(children=1):
    while children:
        (handle, *_) = ended = [handle for handle, _ in wait_for_ends()] or [None]
        children -= len(ended)
    return os.read(listen, 65536).decode()

def wait_for_ends():
    handles = list(processes)
    poll = select.poll()
    for handle in handles:
        poll.register(handle.pidfd, select.POLLIN)
    assert poll.poll(10_000), "no child ended"
    processes.reap()
    return processes.ended()
"""


def run(program: str, *, expect: str = "", code: int = 0) -> str:
    """Runs a program and returns its output."""
    text = PRELUDE + textwrap.dedent(program)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=buffered,
    )
    assert done.returncode == code, done.stderr
    assert expect in done.stderr
    return str(done.stdout)


def test_a_child_keeps_its_link_and_what_it_was_promised_and_nothing_else() -> None:
    """No child inherits other links, or a socket of the supervisor."""
    out = run("""
        secret = os.open("/etc/passwd", os.O_RDONLY)
        kept = os.open("/dev/null", os.O_RDONLY)
        other, _ = Link.pair()

        def main(link):
            expected = {0, 1, 2, link.fileno(), tell, kept}
            seen = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if int(fd) not in expected]
            say([name for one in seen if os.path.exists(one) and "stacks" not in (name := os.readlink(one))])
            say(os.readlink("/proc/self/fd/0"))
            return 0

        processes.spawn(0, 1, (), birth(main, (kept,)))
        print(heard(), end="")
    """)
    assert out == "[]\n/dev/null\n"


def test_a_program_that_a_handler_starts_has_a_stdin_that_ends() -> None:
    """The first file that the program opens would get a closed descriptor 0."""
    out = run("""
        def main(link):
            say(subprocess.run(["cat"], capture_output=True, timeout=5).returncode)
            return 0

        processes.spawn(0, 1, (), birth(main))
        print(heard(), end="")
    """)
    assert out == "0\n"


def test_a_child_has_its_own_group_no_core_and_volunteers_for_the_oom_killer() -> None:
    """A terminal's Ctrl-C reaches only the supervisor; faults S10."""
    out = run("""
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

        def main(link):
            core = resource.getrlimit(resource.RLIMIT_CORE)[0]
            say(os.getpgid(0) == os.getpid(), core, open("/proc/self/oom_score_adj").read().strip() != "0")
            return 0

        processes.spawn(0, 1, (), birth(main))
        print(heard(), end="")
    """)
    assert out == "True\n0\nTrue\n"


def test_p5_a_child_is_deaf_to_the_signals_of_a_terminal_and_of_a_group() -> None:
    """Faults P5: the link alone ends it."""
    out = run("""
        def main(link):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
                os.kill(os.getpid(), number)
            say("alive", signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
            return 0

        processes.spawn(0, 1, (), birth(main))
        print(heard(), end="")
    """)
    assert out == "alive\nFalse\n", "SIG_IGN would be inherited by a handler's programs"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("return 7", 7 << 8),
        ("os._exit(3)", 3 << 8),
        ("raise SystemExit(0)", 1 << 8),
        ("raise KeyboardInterrupt", 1 << 8),
        ("1 / 0", 1 << 8),
        ("os.kill(os.getpid(), signal.SIGKILL)", 9),
        ("sys.stdout.write('x'); os.close(1); return 5", 5 << 8),
    ],
)
def test_however_a_child_ends_its_parents_code_is_never_run_in_it(ending: str, status: int) -> None:
    """An unwinding stack would run the supervisor's cleanup, which removes its socket."""
    out = run(f"""
        def main(link):
            {ending}

        parent = os.getpid()
        processes.spawn(0, 1, (), birth(main))
        if os.getpid() != parent:
            os.write(1, b"a second supervisor")
            os._exit(0)
        ((handle, status),) = wait_for_ends()
        print(handle.index, handle.incarnation, status)
    """)
    assert out == f"0 1 {status}\n"


def test_p14_coalesced_exits_are_all_reaped_and_orphans_only_counted() -> None:
    """Faults P14, P17: one SIGCHLD may stand for several exits."""
    out = run("""
        handles = [processes.spawn(process, 1, (), birth(lambda link: 0)) for process in range(5)]
        stranger = os.fork()
        if not stranger:
            os._exit(0)
        seen = []
        while len(seen) < 5 or not processes.strangers:
            poll = select.poll()
            for handle in processes:
                poll.register(handle.pidfd, select.POLLIN)
            poll.poll(50)
            processes.reap()
            seen += processes.ended()
        print(sorted(handle.index for handle, _ in seen), processes.strangers, list(processes))
        processes.reap()
        print(processes.ended())
    """)
    assert out == "[0, 1, 2, 3, 4] 1 []\n[]\n"


def test_p11_only_what_has_not_been_reaped_can_be_signalled_and_a_kill_of_ours_is_ours() -> None:
    """Faults P11: the pid may be reused. N4: the kernel does not report who sent a SIGKILL."""
    out = run("""
        handle = processes.spawn(0, 1, (), birth(lambda link: select.select([link], [], [])))
        processes.kill(handle)
        ((same, status),) = wait_for_ends()
        print(same is handle, status & 0xFFFF, status & OURS == OURS, processes.find(0, 1))
        try:
            processes.kill(handle)
        except AssertionError:
            print("refused")
    """)
    assert out == "True 9 True None\nrefused\n"


def test_a_kill_that_comes_too_late_is_not_ours() -> None:
    """N4, C10: a process killed by itself or the kernel may be sent our SIGKILL before it is reaped."""
    out = run("""
        handle = processes.spawn(0, 1, (), birth(lambda link: os.kill(os.getpid(), signal.SIGKILL)))
        os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
        processes.kill(handle)
        ((_, status),) = wait_for_ends()
        print(status & 0xFFFF, status & OURS)
    """)
    assert out == "9 0\n"


def test_a_message_and_the_end_of_file_reach_the_parent() -> None:
    """Last messages are read before the exit is reported."""
    out = run("""
        def main(link):
            link.send(Ready("py-std"))
            return 0

        handle = processes.spawn(0, 1, (), birth(main))
        wait_for_ends()
        print(decode_upward(handle.link.receive()[0]).worker_type)
        try:
            handle.link.receive()
        except LinkClosed:
            print("closed")
    """)
    assert out == "py-std\nclosed\n"


def test_p20_no_fork_beside_a_thread() -> None:
    """Faults P20."""
    run(
        """
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        processes.spawn(0, 1, (), birth(lambda link: 0))
        """,
        expect="AssertionError: forking with threads",
        code=1,
    )


def test_p12_a_fork_that_fails_leaves_nothing_behind() -> None:
    """Faults P12, P13: descriptors are closed, and a later fork works."""
    out = run("""
        before = len(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1, hard))
        try:
            processes.spawn(0, 1, (), birth(lambda link: 0))
        except OSError as error:
            print(error.strerror)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(len(os.listdir("/proc/self/fd")) - before, list(processes))
        processes.spawn(0, 1, (), birth(lambda link: 0))
        print(len(wait_for_ends()))
    """)
    assert out == "Too many open files\n0 []\n1\n"


def test_a_reaped_isolates_programs_have_ended_with_it() -> None:
    """Its group is killed before its id can be reused; no other process could end them."""
    out = run("""
        from flowherd_supervisor.processes.process_table import IsolateBirth

        def main():
            program = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
            os.write(tell, str(program.pid).encode())
            return 0

        isolate = processes.spawn_isolate(0, 1, 7, IsolateBirth("flowherd: test", (tell,), main))
        program = os.pidfd_open(int(os.read(listen, 100)))
        poll = select.poll()
        poll.register(os.pidfd_open(isolate.pid), select.POLLIN)
        assert poll.poll(10_000), "the isolate has not ended"
        processes.reap()
        poll = select.poll()
        poll.register(program, select.POLLIN)
        print(bool(poll.poll(5_000)), [status for _, status in processes.ended()])
        signal.pidfd_send_signal(program, signal.SIGKILL) if not poll.poll(0) else None
    """)
    assert out == "True [0]\n"


def test_an_isolate_that_has_left_its_group_is_killed_as_well() -> None:
    """A handler may call `setpgid`; its program stays in the group."""
    out = run("""
        from flowherd_supervisor.processes.process_table import IsolateBirth

        def main():
            os.setpgid(0, os.getpgid(os.getppid()))
            os.write(tell, b"x")
            threading.Event().wait(60)

        isolate = processes.spawn_isolate(0, 1, 7, IsolateBirth("flowherd: test", (tell,), main))
        os.read(listen, 1)
        processes.kill_group(isolate)
        poll = select.poll()
        poll.register(os.pidfd_open(isolate.pid), select.POLLIN)
        print(bool(poll.poll(5_000)))
        os.kill(isolate.pid, signal.SIGKILL)
        processes.reap()
        print([status & 0x7F for _, status in processes.ended()])
    """)
    assert out == "True\n[9]\n"
