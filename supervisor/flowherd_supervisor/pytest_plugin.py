"""Pytest fixtures for tests of apps: an engine and a supervisor as real programs.

Heavy imports wait until a fixture is used, since every pytest run in an environment with flowherd loads the plugin.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from flowherd_supervisor.testkit import EngineProgram, SupervisorProgram


@pytest.fixture
def flowherd_engine() -> Iterator[EngineProgram]:
    """An embedded engine in memory, on a free port of 127.0.0.1; needs `flowherd[engine]`."""
    from flowherd_supervisor.testkit import EngineProgram  # noqa: PLC0415 - only when the fixture is used

    with EngineProgram() as engine:
        yield engine


@pytest.fixture
def flowherd_supervisor(
    flowherd_engine: EngineProgram,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., SupervisorProgram]]:
    """Returns a function that starts a real `flowherd run APP` against `flowherd_engine`; each ends with the test.

    `start(app, *flags, processes=2, app_dir=None, env=None)` returns a `SupervisorProgram` that is ready to work. The
    app is imported from `app_dir`, by default the folder that pytest was started in.
    """
    from flowherd_supervisor.testkit import SupervisorProgram  # noqa: PLC0415 - as above

    with ExitStack() as stack:

        def start(
            app: str,
            *flags: str,
            processes: int = 2,
            app_dir: Path | None = None,
            env: Mapping[str, str] | None = None,
        ) -> SupervisorProgram:
            program = SupervisorProgram(
                tmp_path_factory.mktemp("flowherd"),
                app,
                "-p",
                str(processes),
                *flags,
                engine=flowherd_engine,
                app_dir=app_dir or request.config.invocation_params.dir,
                env=env,
            )
            return stack.enter_context(program).wait_ready()

        yield start
