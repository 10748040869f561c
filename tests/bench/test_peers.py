"""The task queues that flowherd is compared with: each is pinned, has its app, and its version is on the page."""

from __future__ import annotations

from pathlib import Path

from bench.peers.contenders import CONTENDERS, HERE, paragraphs

PAGE = Path(__file__).parents[2] / "supervisor" / "docs" / "how-it-compares.md"
WITHOUT_PINS = {"flowherd", "stock"}  # they are in this environment


def test_every_requirement_is_pinned() -> None:
    """Another version would be another reading."""
    lines = [line for lines in paragraphs().values() for line in lines]
    assert lines
    assert [line for line in lines if "==" not in line] == []


def test_every_contender_has_its_requirements_and_its_app() -> None:
    """And no paragraph is left of one that is gone."""
    names = {one.name for one in CONTENDERS}
    assert names - WITHOUT_PINS == set(paragraphs()) - {"common"}
    for one in CONTENDERS:
        assert (HERE / "apps" / f"{one.sender or one.app}.py").exists()
        assert one.app in one.words


def test_the_page_names_the_versions_that_were_measured() -> None:
    """Whoever raises a version measures again."""
    page = PAGE.read_text(encoding="utf-8")
    for name, lines in paragraphs().items():
        assert f"{name} {lines[0].partition('==')[2]}" in page or name == "common", (
            f"{name} is not on the page"
        )


def test_a_lease_reaches_the_command_line_only_where_one_is_asked_for() -> None:
    flowherd = next(one for one in CONTENDERS if one.name == "flowherd")
    assert "--default-lease" not in flowherd.command(0.0)
    assert flowherd.command(5.0)[-2:] == ["--default-lease", "5.0"]
