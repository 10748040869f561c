"""The command that starts this installation of flowherd, for hints that can be pasted into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def called_from(folder: Path) -> str:
    """Returns `flowherd` if the shell finds this installation, else the shortest path to it from `folder`."""
    own = Path(sys.executable).with_name("flowherd")
    found = shutil.which("flowherd")
    if not own.exists() or (found is not None and own.samefile(found)):
        return "flowherd"
    own = own.parent.resolve() / own.name
    return shlex.quote(min(os.path.relpath(own, folder.resolve()), str(own), key=len))
