"""What demo and bench have around their work: a screen, a private folder, and an end for every way to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from flowherd_supervisor.demo import programs
from flowherd_supervisor.demo.interruption import InterruptedDemoError, Interruption
from flowherd_supervisor.demo.progress import Screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_session(name: str, work: Callable[[Screen, Interruption, Path], int]) -> int:
    """Do `work` and return its exit code, 1 if it could not run, 128 + the signal if somebody stopped it."""
    screen = Screen()
    try:
        with Interruption() as interruption, programs.home() as folder:
            return work(screen, interruption, folder)
    except InterruptedDemoError as interrupted:
        screen.say(f"The {name} was {interrupted}; everything it started has ended.")
        return 128 + interrupted.signal_number
    except KeyboardInterrupt:
        screen.say(f"The {name} was stopped at once; everything it started has been killed.")
        return 130
    except (programs.ProgramError, httpx.HTTPError) as error:
        screen.say(f"The {name} could not run:", str(error))
        return 1
