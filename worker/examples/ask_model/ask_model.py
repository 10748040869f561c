"""Asks a language model over an OpenAI-compatible API: streams the answer, and records what it costs."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import httpx

from flowherd import ActivityContext, ActivityError, Registry

BASE_URL = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
USD_A_TOKEN_IN, USD_A_TOKEN_OUT = Decimal("0.15") / 1_000_000, Decimal("0.60") / 1_000_000


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    """Opens a client for each process; the handlers find it as `ctx.state`."""
    headers = {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with httpx.AsyncClient(base_url=BASE_URL, headers=headers, timeout=60) as client:
        yield client


registry = Registry(lifespan=lifespan)


@registry.activity(timeout_s=300, max_concurrent=8)
async def ask_model(ctx: ActivityContext, prompt: str, model: str) -> dict[str, str]:
    """Passes the answer on while it comes, and returns all of it."""
    client: httpx.AsyncClient = ctx.state
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = ""
    async with client.stream("POST", "/chat/completions", json=body) as reply, ctx.stream() as stream:
        if reply.is_error:
            raise await _refused(reply)
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if usage := event.get("usage"):
                _record(ctx, model, usage["prompt_tokens"], usage["completion_tokens"])
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                await stream.send(text)
                answer += text
    return {"answer": answer}


def _record(ctx: ActivityContext, model: str, tokens_in: int, tokens_out: int) -> None:
    """Counts what is paid for, whether the activity then completes or fails."""
    cost_usd = tokens_in * USD_A_TOKEN_IN + tokens_out * USD_A_TOKEN_OUT
    ctx.record_usage("openai", model, input_tokens=tokens_in, output_tokens=tokens_out, cost_usd=cost_usd)


async def _refused(reply: httpx.Response) -> ActivityError:
    """The failure: too many requests and errors of the server may pass, the others come again."""
    await reply.aread()
    passes = reply.is_server_error or reply.status_code == httpx.codes.TOO_MANY_REQUESTS
    text = f"the model's API answers {reply.status_code}: {reply.text[:200]}"
    return ActivityError(text, code="MODEL_REFUSED", retryable=passes)
