"""The pages of the guide as data: their code blocks, files, commands, links and anchors; it runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LANGUAGES = {"python", "sh", "toml", "yaml", "json", "mermaid", "text", ""}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w[\w.-]*\.(?:py|toml|yaml))\n")
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
# Lines that the test's own world stands for: an environment with flowherd, an engine, and what other tests start.
GIVEN = re.compile(
    r"python3 -m venv|\S*pip install|\. \.venv/bin/activate|mkdir|flowherd engine\b|\S*flowherd (?:dev|demo)\b"
)


@dataclass(frozen=True)
class Page:
    """A page of Markdown, by its path from the top of the repository."""

    path: str

    @cached_property
    def text(self) -> str:
        return (TOP / self.path).read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _BLOCK.sub("", self.text)

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and text of each code block."""
        return [(found[1], found[2]) for found in _BLOCK.finditer(self.text)]

    @cached_property
    def files(self) -> dict[str, str]:
        """The blocks that begin with a file's name."""
        return {found[1]: text for _, text in self.blocks if (found := _FILE.match(text))}

    @cached_property
    def commands(self) -> list[str]:
        """The lines of its shell blocks that a reader types."""
        return [
            line.replace(".venv/bin/", "").replace("../", "")
            for language, text in self.blocks
            if language == "sh"
            for line in text.splitlines()
            if line.strip() and not GIVEN.match(line)
        ]

    @cached_property
    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        return [found[1] or found[2] for found in _LINK.finditer(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def target(self, link: str) -> tuple[Path, str]:
        """The file and the anchor of a link within the repository; no anchor is ""."""
        path, _, anchor = link.partition("#")
        return ((TOP / self.path).parent / path).resolve() if path else TOP / self.path, anchor


def all_pages() -> list[Page]:
    """Every page for users and for readers of the code."""
    tops = (
        "README.md",
        "worker/README.md",
        "supervisor/README.md",
        "deploy/README.md",
        ".github/CONTRIBUTING.md",
    )
    docs = [str(path.relative_to(TOP)) for path in TOP.glob("*/docs/*.md")]
    return [Page(path) for path in sorted([*tops, *docs])]


PAGES = {page.path: page for page in all_pages()}
