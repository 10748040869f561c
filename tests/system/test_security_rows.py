"""Rows of the chapter on security that only whole hosts can show: nothing pickled, no clash, an upgrade amid work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import running_host

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Engine

NO_PICKLE = """
import os, pickle

def _caught(*_, **__):
    with open(os.environ["PICKLED"], "a") as told:
        told.write("pickled\\n")
    raise RuntimeError("nothing is pickled here")

for name in ("load", "loads", "dump", "dumps"):
    setattr(pickle, name, _caught)
"""
NEW_APP = """
from flowherd import activity

@activity
async def hello(name: str) -> dict:
    return {"greeting": f"hello {name}"}

@activity
async def brand_new() -> int:
    return 42
"""


def test_s11_nothing_is_pickled_on_any_way_of_an_activity(engine: Engine, tmp_path: Path) -> None:
    """Faults S11: write access to one of our sockets must not allow running code."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(NO_PICKLE)
    told = tmp_path / "pickled.txt"
    env = {"PYTHONPATH": str(tmp_path / "hook"), "PICKLED": str(told)}
    settings = tmp_path / "flowherd.toml"
    settings.write_text('[activities.hello]\noffload = "process"\n')
    engine.submit("hello", 4, name="Ada")
    engine.submit("wait", 2, seconds=0.01)
    engine.submit("wait_in_thread", 2, seconds=0.01)
    flags = ("-p", "2", "--config", str(settings))
    with running_host(tmp_path, "sample_app:registry", *flags, url=engine.url, env=env) as host:
        host.ready(2)
        engine.wait_for("complete", 8)
        assert host.get("/metrics").is_success
    assert not told.exists()


def test_s16_two_hosts_with_one_name_do_not_clash(engine: Engine, tmp_path: Path) -> None:
    """Faults S16: the name is for display; the worker_id that fences an attempt is new for each poll."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    flags = ("-p", "1", "-c", "4", "--worker-id", "twin")
    with (
        running_host(folders[0], "sample_app:registry", *flags, url=engine.url) as one,
        running_host(folders[1], "sample_app:registry", *flags, url=engine.url) as two,
    ):
        one.ready(1)
        two.ready(1)
        engine.submit("wait", 24, seconds=0.2)
        engine.wait_for("complete", 24)
        claims = engine.entries("claim")
        assert {entry["worker_id"].split("-")[0] for entry in claims} == {"twin"}
        by_host = {entry["worker_id"].rpartition("-")[0] for entry in claims}
        assert len(by_host) == 2, "both have worked, each under a name of its own"
        assert set(engine.claims_per_activity().values()) == {1}


def test_s18_an_upgrade_amid_work_loses_nothing_that_only_the_new_version_knows(
    engine: Engine, tmp_path: Path
) -> None:
    """Faults S18: the old version requeues it until the new one runs."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "new_app.py").write_text(NEW_APP)
    retry = {"retry": {"max_attempts": 50, "strategy": "fixed", "base_seconds": 1}}
    [workflow] = engine.submit("brand_new", 1, settings=retry)
    with running_host(tmp_path / "old", "sample_app:registry", "-p", "1", url=engine.url) as old:
        old.ready(1)
        engine.wait_for("fail", 1)
        new_dir = tmp_path / "new"
        with running_host(new_dir, "new_app", "-p", "1", url=engine.url, app_dir=new_dir) as new:
            new.ready(1)
            assert old.ask("POST", "/api/drain", json={}).status_code == 202
            assert old.wait() == 0
            engine.wait_for("complete", 1)
            engine.ended(workflow)
            assert engine.output(workflow) == {"result": 42}, "the output of the new version"
