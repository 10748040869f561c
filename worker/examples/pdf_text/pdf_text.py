"""Text out of PDFs: each one in an isolate, because a hostile file may take all memory or never end."""

from pathlib import Path
from tempfile import NamedTemporaryFile

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from flowherd import ActivityError, Registry, SyncActivityContext

registry = Registry()


@registry.activity(offload="process", timeout_s=60, max_memory_mb=500)
def extract_text(ctx: SyncActivityContext, path: Path) -> dict[str, str | int]:
    """Uploads the text as a file: an output is for values, not for books."""
    try:
        pages = [page.extract_text() for page in PdfReader(path).pages]
    except PyPdfError as error:
        raise ActivityError(f"not a readable PDF: {error}", code="BAD_PDF", retryable=False) from error
    with NamedTemporaryFile("w", encoding="utf-8", errors="replace") as file:
        file.write("\n\f".join(pages))
        file.flush()
        return {
            "pages": len(pages),
            "words": sum(len(page.split()) for page in pages),
            "text": ctx.upload_file(file.name, f"{path.stem}.txt"),
        }
