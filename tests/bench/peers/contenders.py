"""The contenders: their programs, their broker and what is installed for them; nothing is started here.

A contender is configured as its documentation advises for late acknowledgement, and otherwise left as it is, but quiet.
Two processes are its own parent's where it has one, else two programs, as two units of systemd would be.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REDIS, POSTGRES, ENGINE = "redis", "postgres", "engine"
FLOWHERD, STOCK = "flowherd", "stock"


@dataclass(frozen=True)
class Contender:
    """One of those that are compared.

    Attributes:
        name: as the table has it, and its paragraph in `requirements.txt`.
        app: the module in `apps` that its programs import.
        words: of a program, after `python`.
        programs: how many of them are two processes.
        broker: where its tasks wait.
        sender: the module that sends its tasks, if it is another.
        noops: how many make a reading.
        lease: words that set a lease of `{}` seconds.
        prepare: words that run once before the first program.

    """

    name: str
    app: str
    words: str
    programs: int = 1
    broker: str = REDIS
    sender: str = ""
    noops: int = 1000
    lease: str = ""
    prepare: str = ""

    def command(self, lease_s: float) -> list[str]:
        """The command line of a program."""
        lease = self.lease.format(lease_s) if lease_s else ""
        return [sys.executable, *self.words.split(), *lease.split()]


CONTENDERS = [
    Contender(
        FLOWHERD,
        "flowherd_app",
        f"-m flowherd_supervisor run flowherd_app:registry --app-dir {HERE / 'apps'} -p 2 --log-level error",
        broker=ENGINE,
        sender="engine_app",
        noops=2000,
        lease="--default-lease {}",
    ),
    Contender(
        STOCK,
        "stock_app",
        str(HERE / "apps" / "stock_app.py"),
        programs=2,
        broker=ENGINE,
        sender="engine_app",
        noops=500,
    ),
    Contender("Celery", "celery_app", "-m celery -A celery_app worker -c 2 -l warning"),
    Contender("dramatiq", "dramatiq_app", "-m dramatiq dramatiq_app -p 2", noops=2000),
    Contender(
        "taskiq",
        "taskiq_app",
        "-m taskiq worker taskiq_app:broker -w 2 --log-level WARNING"
        " --use-process-pool --max-process-pool-processes 1",
    ),
    Contender("SAQ", "saq_app", "-m saq saq_app.settings", programs=2),
    Contender("streaq", "streaq_app", str(HERE / "apps" / "streaq_app.py"), programs=2),
    Contender("arq", "arq_app", str(HERE / "apps" / "arq_app.py"), programs=2, noops=500),
    Contender(
        "procrastinate",
        "procrastinate_app",
        "-m procrastinate --app procrastinate_app.app --log-level warning worker --concurrency 10",
        programs=2,
        broker=POSTGRES,
        noops=500,
        prepare="-m procrastinate --app procrastinate_app.app schema --apply",
    ),
    Contender("rq", "rq_app", str(HERE / "apps" / "rq_app.py"), noops=200),
]


def paragraphs() -> dict[str, list[str]]:
    """The requirements of each contender, and of all, by the name that the paragraph begins with."""
    text = (HERE / "requirements.txt").read_text(encoding="utf-8")
    found = (part.strip().splitlines() for part in re.split(r"\n\n+", text))
    return {lines[0].removeprefix("# "): lines[1:] for lines in found if not lines[-1].startswith("#")}


def installed(folder: Path, names: set[str]) -> dict[str, str]:
    """A folder for PYTHONPATH for each name, installed where it has not been before."""
    paths = {}
    for name, lines in paragraphs().items():
        target = folder / name
        if name in names | {"common"} and not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                words = [sys.executable, "-m", "pip", "install", "-q", "--target", scratch, *lines]
                subprocess.run([*words, "--disable-pip-version-check"], check=True)
                Path(scratch).rename(target)
                Path(scratch).mkdir()
        paths[name] = str(target)
    return paths
