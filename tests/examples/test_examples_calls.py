"""The examples that call other services: a model, web sites, a paged API."""

from __future__ import annotations

import json
import runpy
import threading
from typing import TYPE_CHECKING, Any

import pytest
from examples_kit import EXAMPLES
from harness import eventually
from scripted_http import Reply, scripted_server

from flowherd.testing import run_activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples_kit import Example

pytestmark = pytest.mark.timeout(150)  # several programs, one after the other

CHAT = "/v1/chat/completions"


def answer(*texts: str) -> Reply:
    """The stream of a model's answer, and then what it has used."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    chunks.append({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 500}})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Reply(body="".join(lines) + "data: [DONE]\n\n", headers={"content-type": "text/event-stream"})


def test_a_model_that_is_busy_is_asked_again_and_its_answer_is_paid_for(
    run_example: Callable[..., Example],
) -> None:
    with scripted_server(
        {CHAT: [Reply(429, "too many for k-secret"), answer("Because ", "of air.")]}
    ) as server:
        example = run_example("ask_model", OPENAI_BASE_URL=f"{server.url}/v1", OPENAI_API_KEY="k-secret")
        workflow = example.start(prompt="Why?", model="gpt-4o-mini")
        [failed] = example.host.wait_for_log("activity_failed")
        example.engine.advance(10)
        assert example.engine.ended(workflow)["status"] == "completed"
    assert (failed["code"], failed["retryable"]) == ("MODEL_REFUSED", True)
    assert failed["reason"] == "the model's API answers 429: too many for ***"
    assert example.engine.output(workflow) == {"answer": "Because of air."}
    document = example.engine.http.get(f"/api/v1/workflows/{workflow}/output").json()
    assert float(document["total_cost_usd"]) == 0.00045
    asked = server.seen[-1]
    assert asked.headers["authorization"] == "Bearer k-secret"
    assert json.loads(asked.body)["messages"] == [{"role": "user", "content": "Why?"}]


async def test_a_models_answer_is_streamed_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's documents have no streamed text, so the handler runs alone here."""
    with scripted_server({CHAT: answer("Because ", "of air.")}) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "k-secret")
        app = runpy.run_path(str(EXAMPLES / "ask_model" / "ask_model.py"))
        async with app["lifespan"]() as client:
            run = await run_activity(app["ask_model"], {"prompt": "Why?", "model": "m"}, state=client)
    assert run.output == {"answer": "Because of air."}
    assert run.streamed == "Because of air."
    [usage] = run.usage
    assert (usage.input_tokens, usage.output_tokens, float(usage.cost_usd or 0)) == (1000, 500, 0.00045)


def page(*links: str, after: threading.Event | None = None) -> Reply:
    """A page with these links."""
    body = "".join(f'<a href="{link}">there</a>' for link in links)
    return Reply(body=body, headers={"content-type": "text/html"}, after=after)


def test_two_sites_are_crawled_at_a_time_and_each_link_once(run_example: Callable[..., Example]) -> None:
    """The first page of each site is held back until two are asked for and the third waits for its permit."""
    gate = threading.Event()
    pages = {f"/{site}/": page("one", "two#top", "http://127.0.0.2/", after=gate) for site in "abc"}
    pages |= {f"/{site}/one": page(".", "two", "one") for site in "abc"}
    with scripted_server(pages) as server:
        example = run_example("crawler")
        workflows = {site: example.start(start=f"{server.url}/{site}/", most=50) for site in "abc"}

        def row() -> tuple[int, int]:
            [found] = example.host.status()["by_activity"]
            return found["running"], found["waiting"]

        eventually(lambda: row() == (2, 1) and len(server.seen) == 2, "two at work and one that waits")
        gate.set()
        for site, workflow in workflows.items():
            assert example.engine.ended(workflow)["status"] == "completed"
            root = f"{server.url}/{site}/"
            assert example.engine.output(workflow) == {
                "pages": {root: 200, f"{root}one": 200, f"{root}two": 404},
                "not_visited": 0,
            }
        assert example.submit(start=f"{server.url}/a/", most=1)["output"]["crawl"]["not_visited"] == 2
    assert len(server.seen) == 10


def test_a_job_whose_process_is_killed_goes_on_at_its_checkpoint(run_example: Callable[..., Example]) -> None:
    """The third page is held back: by then the first two are kept."""
    gate = threading.Event()
    pages: dict[str, Reply | list[Reply]] = {
        "/orders?page=1": Reply(body=[{"cents": 1}, {"cents": 20}]),
        "/orders?page=2": Reply(body=[{"cents": 300}]),
        "/orders?page=3": [Reply(body=[{"cents": 4000}], after=gate), Reply(body=[{"cents": 4000}])],
        "/orders?page=4": Reply(body=[]),
    }
    with scripted_server(pages) as server:
        example = run_example("checkpoints")
        workflow = example.start(url=f"{server.url}/orders", save_every_s=0)
        eventually(lambda: len(server.seen) == 3, "the third page")
        [process] = [row["process"] for row in example.host.status()["children"] if row["in_flight"]]
        example.host.kill(process)
        gate.set()
        example.host.wait_for_log("activity_failed")
        example.engine.advance(10)
        assert example.engine.ended(workflow)["status"] == "completed"
    assert example.engine.output(workflow) == {"pages": 3, "orders": 4, "cents": 4321}
    assert [seen.path[-1] for seen in server.seen] == ["1", "2", "3", "3", "4"]
