"""Orders in a database with SQLAlchemy: a pool for each process, and an order that is placed only once."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowherd import ActivityContext, Registry


class Base(DeclarativeBase):
    """The tables of this app."""


class Order(Base):
    """An order; its key is the activity's, which is the same in each attempt."""

    __tablename__ = "orders"

    key: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str]
    cents: Mapped[int]


@asynccontextmanager
async def lifespan() -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Opens the pool after the fork, since connections cannot be shared, and closes it after the last activity."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    try:
        yield async_sessionmaker(engine)
    finally:
        await engine.dispose()


registry = Registry(lifespan=lifespan)


@registry.activity(timeout_s=30)
async def place_order(ctx: ActivityContext, item: str, cents: int) -> dict[str, str]:
    """Stores the order in one transaction; an attempt after a crash finds it there."""
    sessions: async_sessionmaker[AsyncSession] = ctx.state
    async with sessions.begin() as session:
        if await session.get(Order, ctx.idempotency_key) is None:
            session.add(Order(key=ctx.idempotency_key, item=item, cents=cents))
    return {"order": ctx.idempotency_key}


@registry.activity(timeout_s=30)
async def turnover(ctx: ActivityContext) -> dict[str, int]:
    """Counts and adds up all orders."""
    sessions: async_sessionmaker[AsyncSession] = ctx.state
    async with sessions() as session:
        row = (await session.execute(select(func.count(), func.sum(Order.cents)).select_from(Order))).one()
    return {"orders": row[0], "cents": row[1] or 0}
