"""The page at `/` in a real browser: it renders, updates, survives a new keeper, and fits a phone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from harness import Host, eventually, running_engine, running_host

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed: Debian's package chromium", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Engine
    from playwright.sync_api import Browser, Page

MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for all tests, since the page is read-only."""
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, headless and without a network: it can reach only this host."""
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Two processes, watched on a port of their own."""
    folder = tmp_path_factory.mktemp("h")
    with running_host(folder, "sample_app:registry", "-p", "2", admin="127.0.0.1:0", url=engine.url) as host:
        yield host.ready(2)


class View:
    """The page of a host, and its errors."""

    def __init__(self, browser: Browser, host: Host, **options: Any) -> None:
        self.url = f"http://{host.log('starting')[0]['status'].split(' and ')[0]}"
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(self.url)

    def _heard(self, message: Any) -> None:
        if message.type == "error" and "net::ERR" not in message.text:
            self.complaints.append(message.text)

    def text(self, place: str) -> str:
        return self.page.locator(place).inner_text()

    def wait_for(self, place: str, pattern: str) -> None:
        sync_api.expect(self.page.locator(place)).to_contain_text(re.compile(pattern), timeout=15_000)


def test_it_shows_what_runs_and_a_killed_process_with_its_cause(
    browser: Browser, engine: Engine, host: Host
) -> None:
    """Renders and updates; a `kill -9` is visible with the cause named; nothing is fetched from elsewhere."""
    view = View(browser, host)
    view.wait_for("#ready", "2 of 2 processes ready")
    assert view.page.locator("#processes tr").count() == 2
    engine.submit("wait", 2, seconds=3.0)
    engine.submit("hello", 5, name="Ada")
    view.wait_for("#activities", "process [01]  ?wait")
    view.wait_for("#slots", r"2 of \d+ busy")
    view.wait_for("#processes", "[1-9]")
    assert view.page.locator(".chart canvas").count() >= 3
    pid = host.children()[1]
    os.kill(pid, signal.SIGKILL)
    view.wait_for("#events", f"process_died.*process=1.*pid={pid}.*SIGKILL")
    view.wait_for('#processes tr[data-process="1"]', "running")
    assert view.complaints == []
    assert all(url.startswith(view.url) for url in view.asked)
    view.context.close()


def test_it_names_app_engine_and_host_and_shows_activities_and_failures(
    browser: Browser, engine: Engine, host: Host
) -> None:
    """An operator sees counts and durations by name, then failures with reason and workflow."""
    engine.submit("hello", 5, name="Ada")
    [flow] = engine.submit("nobodys", settings={"retry": {"max_attempts": 1}})
    [running] = engine.submit("wait", seconds=20.0)
    engine.wait_for("complete", 5)
    view = View(browser, host, viewport={"width": 390, "height": 844}, color_scheme="dark")
    view.wait_for("#app", f"sample_app:registry on {re.escape(socket.gethostname())}")
    view.wait_for("#about", re.escape(engine.url))
    view.wait_for('#names tr[data-activity="hello"]', r"hello\s*0\s*0\s*5\s*0\s*[\d.]+ ms\s*[\d.]+ ms")
    view.wait_for('#names tr[data-activity="other"]', r"other\s*0\s*0\s*0\s*1")
    view.wait_for("#failures", rf"nobodys\s+UNKNOWN_ACTIVITY: .*workflow {flow}")
    view.wait_for("#activities", rf"process [01]  wait\s+workflow {running}")
    view.wait_for("#waiting", "nothing waits")
    wide = view.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]
    assert view.complaints == []
    view.context.close()


def test_the_last_quarter_of_an_hour_is_drawn_as_soon_as_the_page_opens(browser: Browser, host: Host) -> None:
    """The host stores it, so that a new page shows the past."""
    eventually(lambda: host.get("/api/trend").json()["intervals"], "an interval of ten seconds has passed")
    view = View(browser, host)
    for chart in ("#throughput", "#latency"):
        sync_api.expect(view.page.locator(f"{chart} canvas")).to_be_visible(timeout=15_000)
    assert view.page.evaluate("throughput.times.length") >= 1
    assert view.page.evaluate("[...latency.rows.keys()]") == ["p50", "p95"]
    assert view.complaints == []
    view.context.close()


def test_a_blocked_loop_is_named_by_its_line(browser: Browser, engine: Engine, host: Host) -> None:
    """The event strip has blocked loops with file:line."""
    view = View(browser, host)
    view.wait_for("#ready", "2 of 2")
    engine.submit("block_loop", 1, seconds=0.8)
    view.wait_for("#events", r"loop_blocked.*sample_app\.py:\d+")
    view.wait_for("#processes", r"sample_app\.py:\d+ \(1.\)")
    view.context.close()


def test_it_outlives_the_process_that_serves_it_and_shows_no_event_twice(
    browser: Browser, host: Host
) -> None:
    """Survives its restart."""
    view = View(browser, host)
    view.wait_for("#ready", "2 of 2")
    shown = view.page.locator("#events li").count()
    os.kill(host.keeper(), signal.SIGKILL)
    view.wait_for("#events", "keeper_died")
    view.wait_for("#ready", "2 of 2")
    eventually(lambda: view.page.locator("#silent").is_hidden(), "it has found the next one")
    texts = view.page.locator("#events li").all_inner_texts()
    assert len(texts) == len(set(texts)) > shown
    assert view.complaints == []
    view.context.close()


@pytest.mark.parametrize(
    ("width", "rows"),
    [(390, [1, 1, 1, 1, 1]), (800, [1, 2, 2]), (1280, [2, 3]), (1440, [2, 3]), (1920, [5])],
)
def test_the_charts_fill_every_row(browser: Browser, host: Host, width: int, rows: list[int]) -> None:
    """The fifth one stood alone in a row of four at 1,280 pixels."""
    view = View(browser, host, viewport={"width": width, "height": 900})
    view.wait_for("#ready", "2 of 2")
    boxes = view.page.evaluate(
        "[...document.querySelectorAll('.charts figure')].map(one => one.getBoundingClientRect().toJSON())"
    )
    whole = view.page.evaluate("document.querySelector('.charts').getBoundingClientRect().toJSON()")
    by_row: dict[float, list[dict[str, float]]] = {}
    for box in boxes:
        by_row.setdefault(box["top"], []).append(box)
    assert [len(row) for row in by_row.values()] == rows
    for row in by_row.values():
        assert row[0]["left"] == pytest.approx(whole["left"], abs=1)
        assert row[-1]["right"] == pytest.approx(whole["right"], abs=1)
        assert all(box["width"] >= 250 for box in row)
    assert view.complaints == []
    view.context.close()


def test_a_run_time_is_shown_with_three_digits_in_the_unit_that_fits(browser: Browser, host: Host) -> None:
    """300 ms was 512 ms; what is rounded away must stay small."""
    view = View(browser, host)
    shown = view.page.evaluate("[0.3124, 8, 299.6, 999.6, 2048, 900000, 3.6e7].map(ms => took(ms, true))")
    assert shown == ["0.312 ms", "8 ms", "300 ms", "1 s", "2.05 s", "900 s", "600 min"]
    assert view.page.evaluate("[took(null, true), took(null, false)]") == ["> 18 h", "\u2013"]
    view.context.close()


@pytest.mark.parametrize(("scheme", "darker"), [("light", False), ("dark", True)])
def test_it_follows_the_readers_colours_and_fits_a_phone(
    browser: Browser, host: Host, scheme: str, *, darker: bool
) -> None:
    """Light and dark, readable on a phone: nothing but the table scrolls sideways."""
    view = View(browser, host, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    view.wait_for("#ready", "2 of 2")
    wide = view.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]
    paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3]))
    assert (brightness < 200) is darker
    view.context.close()


def test_no_text_of_a_user_becomes_markup(browser: Browser, engine: Engine, host: Host) -> None:
    """Faults S6: an activity's name is whatever a definition says."""
    name = "<img src=x onerror=document.title='taken'>"
    view = View(browser, host)
    view.wait_for("#ready", "2 of 2")
    view.page.evaluate("name => happened({id: 1, at: 1, level: 'info', event: 'x', name})", name)
    view.wait_for("#events", re.escape("name=<img"))
    one = "{at: 1, activity: name, type: name, message: name, workflow_id: name, retryable: true}"
    view.page.evaluate(f"name => at('failures').append(failure({one}))", name)
    view.wait_for("#failures", re.escape("<img"))
    assert view.page.locator("#events img, #failures img").count() == 0
    assert view.page.title() == "flowherd"
    assert engine.url
    view.context.close()


def test_the_whole_page_is_small_and_allows_nothing_from_elsewhere(host: Host) -> None:
    """At most 100 KB in total; a policy that holds even if a text became markup."""
    url = f"http://{host.log('starting')[0]['status'].split(' and ')[0]}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert len(parts) == 4
        sizes = [len(client.get(part).raise_for_status().content) for part in parts]
        assert len(page.content) + sum(sizes) <= MOST_BYTES
        assert client.get("/page/vendor/LICENSE.uplot").status_code == 404, (
            "only what the page needs is served"
        )
        link = client.get("/", headers={"sec-fetch-site": "cross-site"})
        assert link.is_success, "a link to the page may stand anywhere"
        assert client.get("/api/status", headers={"sec-fetch-site": "cross-site"}).status_code == 403
