"""Creates the tables, once; a real app leaves this to its migrations."""

import asyncio
import os

from shop import Base
from sqlalchemy.ext.asyncio import create_async_engine


async def main() -> None:
    """Creates what is missing in DATABASE_URL."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
