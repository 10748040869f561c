"""The examples that work on files: images, PDFs and tables."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from scripted_http import Reply, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from examples_kit import Example

pytestmark = pytest.mark.timeout(150)  # several programs, one after the other


def png(width: int, height: int) -> bytes:
    """A red image."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "png")
    return file.getvalue()


def test_thumbnails_are_made_of_an_image_and_anything_else_is_refused(
    run_example: Callable[..., Example],
) -> None:
    pages = {"/photo.png": Reply(body=png(400, 100)), "/page.html": Reply(body="<p>no image</p>")}
    with scripted_server(pages) as server:
        example = run_example("thumbnails")
        done = example.submit(url=f"{server.url}/photo.png", size=200)["output"]
        refused = example.start(url=f"{server.url}/page.html", size=200)
        assert example.engine.ended(refused)["status"] == "failed"
    assert (done["thumbnail"]["width"], done["thumbnail"]["height"]) == (200, 50)
    small = Image.open(io.BytesIO(example.file(done["thumbnail"]["thumbnail"])))
    assert (small.format, small.size) == ("JPEG", (200, 50))
    [failed] = example.host.log("activity_failed")
    assert (failed["code"], failed["retryable"]) == ("BAD_IMAGE", False)


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        content = f"BT /F1 12 Tf 20 20 Td ({text}) Tj ET"
        resources = "/Resources<</Font<</F1 3 0 R>>>>"
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 50]{resources}/Contents {5 + 2 * number} 0 R>>",
            f"<</Length {len(content)}>>stream\n{content}\nendstream",
        ]
    made, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(made))
        made += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (
        f"{made}{head}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(made)}\n%%EOF".encode()
    )


def test_text_comes_out_of_a_pdf_and_a_broken_one_is_refused(
    run_example: Callable[..., Example], tmp_path: Path
) -> None:
    good, broken = tmp_path / "letter.pdf", tmp_path / "broken.pdf"
    good.write_bytes(pdf("Dear reader", "Yours"))
    broken.write_bytes(b"%PDF-1.4\nnothing more")
    example = run_example("pdf_text")
    output = example.submit(path=good)["output"]["extract"]
    assert (output["pages"], output["words"]) == (2, 3)
    assert example.file(output["text"]) == b"Dear reader\n\x0cYours"
    assert example.engine.ended(example.start(path=str(broken)))["status"] == "failed"
    [failed] = example.host.log("activity_failed")
    assert (failed["code"], failed["retryable"]) == ("BAD_PDF", False)


def test_a_report_is_made_and_a_table_that_needs_too_much_memory_fails_alone(
    run_example: Callable[..., Example], tmp_path: Path
) -> None:
    """The large table is a sparse file: a line that is longer than the limit."""
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    rows = [
        "day,shop,cents",
        "2026-10-30,Oslo,100",
        "2026-11-02,Oslo,5",
        "2026-11-03,Rome,7",
        "2026-11-09,Rome,1",
    ]
    small.write_text("\n".join(rows))
    large.write_text(rows[0] + "\n")
    os.truncate(large, 2 * 1024**3)
    example = run_example("sales_report")
    too_large = example.start(path=str(large))
    assert example.engine.ended(too_large)["status"] == "failed"
    [failed] = example.host.log("activity_failed")
    assert (failed["code"], failed["retryable"]) == ("OUT_OF_MEMORY", False)
    assert example.submit(path=small)["output"]["report"] == {
        "rows": 4,
        "cents": {"2026-10": {"Oslo": 100, "Rome": 0}, "2026-11": {"Oslo": 5, "Rome": 8}},
    }
    assert not example.host.log("process_died")
