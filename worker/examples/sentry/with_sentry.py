"""Failures sent to Sentry with the ids of their workflow; the SDK starts in each process, after the fork."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration

from flowherd import ActivityContext, Registry

P = ParamSpec("P")
R = TypeVar("R")


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Starts the SDK in a process that forks no more: its sender is a thread."""
    sentry_sdk.init(
        dsn=os.environ["SENTRY_DSN"],
        integrations=[LoggingIntegration(event_level=None)],  # the log tells each failure once more
        include_local_variables=False,  # parameters may hold secrets
    )
    yield
    sentry_sdk.flush(timeout=5)


def reported(
    handler: Callable[Concatenate[ActivityContext, P], Awaitable[R]],
) -> Callable[Concatenate[ActivityContext, P], Awaitable[R]]:
    """Sends each exception of a handler to Sentry and raises it again."""

    @wraps(handler)
    async def reporting(ctx: ActivityContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("workflow_id", ctx.workflow_id)
            scope.set_tag("activity_name", ctx.activity_name)
            try:
                return await handler(ctx, *args, **kwargs)
            except Exception as error:
                sentry_sdk.capture_exception(error)
                raise

    return reporting


registry = Registry(lifespan=lifespan)


@registry.activity
@reported
async def divide(ctx: ActivityContext, a: float, b: float) -> float:
    """Fails for b=0."""
    ctx.logger.info("dividing")
    return a / b
