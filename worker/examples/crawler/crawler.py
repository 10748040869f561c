"""A polite web crawler: one activity is one site, and the host works on two sites at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx

from flowherd import ActivityContext, Registry


class _Links(HTMLParser):
    """Collects where the links of a page lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for each opening tag."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    """Opens a client for each process, with connections of its own."""
    headers = {"user-agent": "example-crawler/1.0"}
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:
        yield client


registry = Registry(lifespan=lifespan)


@registry.activity(timeout_s=600, max_concurrent=2)
async def crawl_site(ctx: ActivityContext, start: str, most: int) -> dict[str, object]:
    """Follows the links of a site, page after page, and returns the status of each page."""
    client: httpx.AsyncClient = ctx.state
    host, seen, waiting = urlsplit(start).netloc, {start}, [start]
    pages: dict[str, int] = {}
    while waiting and len(pages) < most:
        url = waiting.pop(0)
        reply = await client.get(url)
        pages[url] = reply.status_code
        if "html" not in reply.headers.get("content-type", ""):
            continue
        for link in links_of(reply.text, url):
            if urlsplit(link).netloc == host and link not in seen:
                seen.add(link)
                waiting.append(link)
    ctx.logger.info("crawled", extra={"pages": len(pages)})
    return {"pages": pages, "not_visited": len(waiting)}


def links_of(html: str, base: str) -> list[str]:
    """The absolute addresses that a page links to, without fragments."""
    links = _Links()
    links.feed(html)
    return [urldefrag(urljoin(base, link)).url for link in links.found]
