"""A job of hours that reads a paged API and goes on where it was interrupted."""

from time import monotonic

import httpx
from pydantic import BaseModel

from flowherd import ActivityContext, ActivityError, Registry

registry = Registry()


class Progress(BaseModel):
    """The part of the work that is done, as it is kept with the engine."""

    pages: int = 0
    orders: int = 0
    cents: int = 0


@registry.activity(timeout_s=6 * 3600)
async def order_totals(ctx: ActivityContext, url: str, save_every_s: float) -> Progress:
    """Adds up all orders, page after page; an empty page is the end."""
    done = Progress.model_validate(await ctx.resume() or {})
    saved_at = monotonic()
    async with httpx.AsyncClient(timeout=60) as client:
        while orders := await _page(client, url, done.pages + 1):
            done.pages += 1
            done.orders += len(orders)
            done.cents += sum(order["cents"] for order in orders)
            if ctx.shutdown_requested or monotonic() - saved_at >= save_every_s:
                await ctx.checkpoint(done.model_dump())
                saved_at = monotonic()
            if ctx.shutdown_requested:
                raise ActivityError(f"interrupted after page {done.pages}", code="INTERRUPTED")
    return done


async def _page(client: httpx.AsyncClient, url: str, number: int) -> list[dict[str, int]]:
    reply = await client.get(url, params={"page": number})
    reply.raise_for_status()
    orders: list[dict[str, int]] = reply.json()
    return orders
