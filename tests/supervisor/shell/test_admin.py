"""Admin sockets: their folder, access to them, and files that are never removed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.errors import ConfigurationError
from flowherd.settings.parsing import DEFAULT_ADDRESS, Tcp, parse_address
from flowherd_supervisor.cli.ask_supervisor import endpoint
from flowherd_supervisor.shell import admin_socket
from flowherd_supervisor.shell.admin_socket import AdminSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder with a short name: socket paths end at 107 bytes."""
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def bind(runtime: Path) -> Iterator[Callable[[str], AdminSocket]]:
    del runtime
    bound: list[AdminSocket] = []

    def start(address: str) -> AdminSocket:
        bound.append(AdminSocket(address))
        return bound[-1]

    yield start
    for one in bound:
        one.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("off", None),
        ("127.0.0.1:9464", Tcp("127.0.0.1", 9464)),
        ("[::1]:0", Tcp("::1", 0)),
        ("::1:80", Tcp("::1", 80)),
        ("unix:/run/x.sock", Path("/run/x.sock")),
        ("unix:rel", Path("rel")),
    ],
)
def test_an_address_is_a_port_a_path_or_off(text: str, address: Tcp | Path | None) -> None:
    """Whatever `--admin` takes."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "unix:", "host:", "host:-1", "host:65536", "host:²", "on"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    """Faults S12."""
    with pytest.raises(ValueError, match=r"HOST:PORT, unix:PATH or off; such as 127\.0\.0\.1:9464"):
        parse_address(text)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """No other exception is raised."""
    try:
        assert parse_address(text) is None or text
    except ValueError as error:
        assert "HOST:PORT" in str(error)  # noqa: PT017 - both outcomes are right


def test_s1_the_unix_socket_is_the_users_alone(bind: Callable[[str], AdminSocket], runtime: Path) -> None:
    """Faults S1: 0600 in a 0700 folder, named after the supervisor's pid."""
    one = bind("off")
    assert one.path == runtime / "flowherd" / f"{os.getpid()}.sock"
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o700
    assert one.description == str(one.path)
    assert len(one.fds) == 1


def test_a_folder_that_others_can_enter_is_refused(bind: Callable[[str], AdminSocket], runtime: Path) -> None:
    """In a shared temporary directory another user may have created it first."""
    (runtime / "flowherd").mkdir()
    (runtime / "flowherd").chmod(0o755)
    with pytest.raises(ConfigurationError, match="not a private folder of yours"):
        bind("off")


def test_without_a_runtime_folder_it_is_a_private_one_in_the_temp_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the variable names a folder that is gone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert admin_socket.admin_folder() == tmp_path / f"flowherd-{os.getuid()}"


def test_a_free_port_is_named_in_the_banner(bind: Callable[[str], AdminSocket]) -> None:
    """Port 0 picks one, which the banner must show."""
    one = bind("127.0.0.1:0")
    port = one.sockets[1].getsockname()[1]
    assert one.description == f"127.0.0.1:{port} and {one.path}"
    socket.create_connection(("127.0.0.1", port)).close()


def test_an_explicit_port_that_is_taken_is_refused_and_nothing_stays_behind(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """Exit 2: it was asked for by name."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigurationError, match=rf"--admin {address}: Address already in use; choose another"
        ):
            bind(address)
    assert list((runtime / "flowherd").iterdir()) == []


def test_the_default_port_that_is_taken_costs_a_warning(
    bind: Callable[[str], AdminSocket], caplog: pytest.LogCaptureFixture
) -> None:
    """Two supervisors on one host must both start."""
    host, _, port = DEFAULT_ADDRESS.partition(":")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # in use by another program, which is as good
            stack.enter_context(socket.create_server((host, int(port))))
        one = bind(DEFAULT_ADDRESS)
    assert len(one.sockets) == 1
    assert one.description == str(one.path)
    assert "admin_port_taken" in caplog.text


def test_the_socket_of_a_killed_supervisor_is_replaced(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """Its pid may have been reused by us."""
    path = runtime / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    one = bind(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    one.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_never_removed(
    bind: Callable[[str], AdminSocket], tmp_path: Path
) -> None:
    """`--admin unix:flowherd.toml` must not cost the user a file."""
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigurationError, match="something else than a socket"):
        bind(f"unix:{tmp_path / 'precious'}")
    assert (tmp_path / "precious").read_text() == "x"


def test_a_socket_in_use_is_not_taken_over(bind: Callable[[str], AdminSocket], runtime: Path) -> None:
    """Of two supervisors with the same --admin, the second is refused, the first goes on."""
    path = runtime / "x.sock"
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(path))
        first.listen()
        with pytest.raises(ConfigurationError, match="another program serves there"):
            bind(f"unix:{path}")
        assert path.exists()


def test_a_path_that_is_too_long_is_said_with_the_remedy(
    tmp_path: Path, bind: Callable[[str], AdminSocket]
) -> None:
    """107 bytes is the kernel's limit."""
    with pytest.raises(ConfigurationError, match="AF_UNIX path too long; choose another --admin, or off"):
        bind(f"unix:{tmp_path / ('x' * 200)}")


def test_a_runtime_folder_that_cannot_be_made_is_named_with_the_remedy(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    (runtime / "flowherd").write_text("a file")
    with pytest.raises(ConfigurationError, match="flowherd: File exists; set XDG_RUNTIME_DIR"):
        bind("off")


def test_a_host_that_ends_while_the_sockets_are_looked_through_is_passed_over(
    bind: Callable[[str], AdminSocket], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting `submit` looks through them every 50 ms."""
    one = bind("off")
    glob = Path.glob

    def listed_before_one_ended(folder: Path, pattern: str) -> list[Path]:
        return [folder / "4711.sock", *glob(folder, pattern)] if folder.name == "flowherd" else []

    monkeypatch.setattr(Path, "glob", listed_before_one_ended)
    assert admin_socket.find_sockets() == {os.getpid(): one.path}


def test_living_supervisors_are_found_by_pid_and_dead_ones_passed_over(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """As `status` needs it."""
    assert admin_socket.find_sockets() == {}
    one = bind("off")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "flowherd" / "1.sock"))
    (runtime / "flowherd" / "notes.sock").touch()
    assert admin_socket.find_sockets() == {os.getpid(): one.path}


def test_p21_a_start_removes_what_killed_supervisors_left_behind(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """Not a frozen one's, nor a young one, whose supervisor may not listen yet."""
    folder = runtime / "flowherd"
    folder.mkdir(mode=0o700)
    with ExitStack() as stack:
        frozen, first, second, dead = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4))
        frozen.bind(str(folder / "1.sock"))
        frozen.listen(0)
        first.connect(str(folder / "1.sock"))
        second.settimeout(0)
        assert second.connect_ex(str(folder / "1.sock")) == errno.EAGAIN
        dead.bind(str(folder / "2.sock"))
        for old in (folder / "1.sock", folder / "2.sock", folder / "notes.sock"):
            old.touch()
            os.utime(old, (0, 0))
        with socket.socket(socket.AF_UNIX) as young:
            young.bind(str(folder / "3.sock"))
            one = bind("off")
    assert {path.name for path in folder.iterdir()} == {"1.sock", "3.sock", "notes.sock", one.path.name}


def test_the_socket_of_a_service_is_found_without_its_environment(
    bind: Callable[[str], AdminSocket], runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its RuntimeDirectory lies below /run; a folder that others can open is passed over."""
    bind("off")
    services = runtime / "run"
    (services / "open" / "flowherd").mkdir(parents=True, mode=0o777)
    (services / "unit").mkdir()
    moved = (runtime / "flowherd").rename(services / "unit" / "flowherd")
    monkeypatch.setattr(admin_socket, "SERVICES", services)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert admin_socket.find_sockets() == {os.getpid(): moved / f"{os.getpid()}.sock"}
    moved.rename(runtime / "flowherd")


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
SOMEBODY = 12_345


@as_root
def test_n16_a_folder_of_another_user_is_refused_by_supervisor_and_client(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """In a shared temporary directory another user may have created the folder with a socket of theirs."""
    (runtime / "flowherd").mkdir(mode=0o700)
    os.chown(runtime / "flowherd", SOMEBODY, SOMEBODY)
    for use in (lambda: bind("off"), admin_socket.find_sockets):
        with pytest.raises(ConfigurationError, match="not a private folder of yours: remove it, or set XDG"):
            use()


def test_n16_a_folder_that_others_can_write_to_or_that_is_a_link_is_refused(
    runtime: Path, tmp_path: Path
) -> None:
    """Others could replace our socket, or the link could lead anywhere."""
    folder = runtime / "flowherd"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="not a private folder of yours"):
        admin_socket.find_sockets()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="not a private folder of yours"):
        admin_socket.find_sockets()


@as_root
def test_n16_a_socket_of_another_user_is_neither_found_nor_spoken_to(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    """A host of another user is never steered, even by an explicit path."""
    one = bind("off")
    admin_socket.check_own(one.path)
    os.chown(one.path, SOMEBODY, SOMEBODY)
    assert admin_socket.find_sockets() == {}
    with pytest.raises(
        ConfigurationError, match=f"belongs to user {SOMEBODY}: only the user who runs a host controls it"
    ):
        endpoint(f"unix:{one.path}", None)


def test_n16_a_socket_in_a_folder_that_others_can_write_to_is_not_spoken_to(
    bind: Callable[[str], AdminSocket], runtime: Path
) -> None:
    folder = runtime / "open"
    folder.mkdir()
    bind(f"unix:{folder / 'x.sock'}")
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="can be written to by others: chmod go-w"):
        endpoint(f"unix:{folder / 'x.sock'}", None)
