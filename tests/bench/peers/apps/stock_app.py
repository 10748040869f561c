"""The stock worker."""

from __future__ import annotations

import asyncio
from inspect import iscoroutinefunction

import work
from kruxiaflow.worker import ActivityResult, activity
from stock_program import program


def task(name, function):
    async def run(params, ctx):
        if iscoroutinefunction(function):
            await function(**params)
        else:
            await asyncio.to_thread(function, **params)  # noqa: TID251 - as an author of its activities would
        return ActivityResult.value("result", 0)

    return activity(name=name)(run)


if __name__ == "__main__":
    asyncio.run(program(*(task(name, function) for name, function in work.ASYNC.items()))())
