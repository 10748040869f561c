"""Files on this host's disk: private, whole or not at all, swept after a kill (F2, F3, F4, F8, F10)."""

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flowherd.errors import EngineUnavailable, FileChanged, FileTooLarge, InvalidFile, StorageFailed
from flowherd.files.disk_io import CHUNK_BYTES, Incoming, Outgoing
from flowherd.files.scratch_folders import Scratch, begin_sweep, sweep

LIMIT = 1 << 30


@pytest.fixture
def base(tmp_path):
    return tmp_path / "flowherd-files"


def fill(sink, content, announced=None):
    sink.begin(len(content) if announced is None else announced)
    sink.write(content)
    sink.finish()


def test_f2_a_symlink_planted_at_the_target_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for planted in ("link", "dangling", "victim"):
        with pytest.raises(StorageFailed), Incoming.created(tmp_path / planted, LIMIT) as sink:
            fill(sink, b"overwritten")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "link").is_symlink(), "what was not ours is not removed either"


def test_f2_folders_and_files_are_for_this_user_alone(base):
    scratch = Scratch(base)
    folder = scratch.folder()
    with Incoming.created(folder / "a", LIMIT) as sink:
        fill(sink, b"x")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder / "a", folder, folder.parent, base)] == [
        0o600,
        0o700,
        0o700,
        0o700,
    ]
    scratch.close()
    assert not base.exists()


@pytest.mark.parametrize("plant", ["wide", "link", "file"])
def test_f2_a_base_that_others_can_reach_into_is_refused(base, tmp_path, plant):
    """The temporary directory is shared: another user may have created the folder first."""
    if plant == "wide":
        base.mkdir()
        base.chmod(0o777)
    elif plant == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.write_text("")
    with pytest.raises(StorageFailed):
        Scratch(base).folder()
    sweep(base)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "device", "directory", "nothing", "nul", "socket"])
def test_f3_only_regular_files_are_uploaded_and_nothing_hangs(tmp_path, monkeypatch, kind):
    path = tmp_path / "upload"
    match kind:
        case "symlink":
            (tmp_path / "real").write_text("secret")
            path.symlink_to(tmp_path / "real")
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "directory":
            path.mkdir()
        case "nul":
            path = tmp_path / "a\0b"
        case "socket":
            listener = socket.socket(socket.AF_UNIX)
            monkeypatch.chdir(tmp_path)
            listener.bind("upload")
            listener.close()
    with pytest.raises(InvalidFile) as caught, Outgoing.opened(path, LIMIT):
        pytest.fail("it was opened")
    assert (caught.value.code, caught.value.retryable) == ("INVALID_FILE", False)


def test_f3_a_file_that_vanishes_after_it_was_opened_is_still_sent_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    with Outgoing.opened(path, LIMIT) as source:
        path.unlink()
        assert (source.size, b"".join(source.chunks())) == (100, b"x" * 100)


def test_f6_an_upload_is_read_in_chunks_of_64_kib_as_often_as_needed(tmp_path):
    content = bytes(range(251)) * 1000
    path = tmp_path / "a"
    path.write_bytes(content)
    with Outgoing.opened(path, LIMIT) as source:
        for _ in range(2):
            chunks = list(source.chunks())
            assert max(map(len, chunks)) == CHUNK_BYTES
            assert b"".join(chunks) == content


def test_f6_a_file_above_the_limit_is_refused_before_a_byte_moves(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(FileTooLarge, match="--max-file-mb"), Outgoing.opened(path, 1 << 20):
        pytest.fail("it was opened")
    with pytest.raises(FileTooLarge), Incoming.created(tmp_path / "b", 1 << 20) as sink:
        sink.begin((1 << 20) + 1)
    assert not (tmp_path / "b").exists()


@contextlib.contextmanager
def room_for(size):
    """Files of this process may not grow beyond `size`: what a full disk or a quota does, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_f4_a_full_disk_is_a_retryable_failure_that_leaves_nothing(tmp_path):
    with (
        room_for(150_000),
        pytest.raises(StorageFailed) as caught,
        Incoming.created(tmp_path / "a", LIMIT) as sink,
    ):
        fill(sink, b"x" * 300_000)
    assert (caught.value.code, caught.value.retryable) == ("STORAGE", True)
    assert list(tmp_path.iterdir()) == []


def test_f4_a_temp_dir_that_cannot_be_written_is_a_retryable_failure(tmp_path):
    """A read-only mount, a missing folder: here a file where a folder should be, which even root cannot pass."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed) as caught:
        Scratch(tmp_path / "file" / "base").folder()
    assert caught.value.retryable


@pytest.mark.parametrize("sent", [b"", b"12345678", b"1234567890x"])
def test_f5_a_file_that_is_too_short_or_too_long_is_not_handed_over(tmp_path, sent):
    with pytest.raises(EngineUnavailable), Incoming.created(tmp_path / "a", LIMIT) as sink:
        fill(sink, sent, announced=10)
    assert list(tmp_path.iterdir()) == []


def test_f5_a_second_try_begins_with_an_empty_file(tmp_path):
    with Incoming.created(tmp_path / "a", LIMIT) as sink:
        sink.begin(10)
        sink.write(b"old bytes")
        fill(sink, b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def _changes(path, how):
    with path.open("r+b") as file:
        match how:
            case "grows":
                file.seek(0, os.SEEK_END)
                file.write(b"more")
            case "shrinks":
                file.truncate(10)
            case "rewritten":
                file.write(b"other bytes")
    later = path.stat().st_mtime_ns + 10_000_000  # a tick of the kernel's clock may not have passed yet
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize("how", ["grows", "shrinks", "rewritten"])
def test_f10_a_file_that_changes_meanwhile_is_never_sent_to_its_end(tmp_path, how):
    """The last chunk is held back until the file is seen to be the same: the engine then stores nothing."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * (3 * CHUNK_BYTES))
    with Outgoing.opened(path, LIMIT) as source:
        chunks = source.chunks()
        sent = len(next(chunks))
        writer = threading.Thread(target=_changes, args=(path, how))
        writer.start()
        writer.join()
        lengths = (len(chunk) for chunk in chunks)
        given = [sent]
        with pytest.raises(FileChanged) as caught:
            given.extend(lengths)
    assert sum(given) < source.size
    assert (caught.value.code, caught.value.retryable) == ("FILE_CHANGED", True)


def test_f10_an_empty_file_that_grows_is_noticed_too(tmp_path):
    path = tmp_path / "a"
    path.touch()
    with Outgoing.opened(path, LIMIT) as source:
        path.write_bytes(b"x")
        with pytest.raises(FileChanged):
            list(source.chunks())


_OWNER = """
import pathlib, signal, sys
from flowherd.files.scratch_folders import Scratch
folder = Scratch(pathlib.Path(sys.argv[1])).folder()
(folder / "left.bin").write_bytes(b"x" * 100)
print(folder.parent, flush=True)
signal.pause()
"""


@contextlib.contextmanager
def owner(base):
    """A process with a file in its folder."""
    process = subprocess.Popen([sys.executable, "-c", _OWNER, str(base)], stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_f8_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(base):
    """Several supervisors of one user share the folder; the kernel drops the lock of a killed process."""
    with owner(base) as (living, kept), owner(base) as (killed, left):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        begin_sweep(base).join(10)
        assert os.path.exists(kept)
        assert not os.path.exists(left)
        living.kill()
        living.wait()
        sweep(base)
    assert not base.exists()


def test_f8_where_nothing_was_left_no_thread_is_started(base):
    assert begin_sweep(base) is None


def test_two_processes_that_come_and_go_do_not_take_the_folder_from_each_other(base):
    """The last process removes the shared base; one that starts at that moment creates a new one."""
    failures = []

    def come_and_go():
        try:
            for _ in range(50):
                scratch = Scratch(base)
                (scratch.folder() / "a").write_text("x")
                scratch.close()
        except Exception as error:  # noqa: BLE001 - a thread's errors are looked at below
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert not base.exists()
