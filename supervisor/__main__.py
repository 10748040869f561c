"""`python supervisor run APP -p 4` from a clone, without installing: puts both source roots on the path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0:1] = [str(ROOT / "supervisor"), str(ROOT / "worker")]

from flowherd_supervisor.cli.main import main  # noqa: E402 - the path comes first

main()
