"""An in-memory store of files, for tests of handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.errors import FileMissing
from flowherd.files.disk_io import CHUNK_BYTES
from flowherd.sdk.file_reference import FileReference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.files.disk_io import Incoming, Outgoing


class MemoryFiles:
    """`flowherd.files.transfers.FileStore` without an engine.

    Args:
        contents: the files that can be downloaded, by reference, with or without the scheme.

    Attributes:
        contents: all files, also the uploaded ones, by reference.
        content_types: the content types of uploaded files, by reference.

    """

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = {str(FileReference.parse(text)): bytes(content) for text, content in contents.items()}
        self.content_types: dict[str, str] = {}

    async def send(self, reference: FileReference, source: Outgoing, content_type: str) -> None:
        """See `FileStore.send`."""
        self.contents[str(reference)] = b"".join(source.chunks())
        self.content_types[str(reference)] = content_type

    async def receive(self, reference: FileReference, sink: Incoming) -> None:
        """See `FileStore.receive`."""
        content = self.contents.get(str(reference))
        if content is None:
            raise FileMissing(f"Not found: File {reference.name!r} not found")
        sink.begin(len(content))
        for start in range(0, len(content), CHUNK_BYTES):
            sink.write(content[start : start + CHUNK_BYTES])
        sink.finish()

    async def aclose(self) -> None:
        """See `FileStore.aclose`."""
