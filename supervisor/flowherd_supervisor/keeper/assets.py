"""The files of the page at `/`, read once; nothing but these can be asked for, and they hold no data of the host."""

from __future__ import annotations

from importlib.resources import files

# Everything from this very host, no script or style inside of markup, and in nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'"
)
HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/uplot.css": ("vendor/uplot.css", "text/css; charset=utf-8"),
    "/page/uplot.js": ("vendor/uplot.js", "text/javascript; charset=utf-8"),
}


def load() -> dict[str, tuple[bytes, str]]:
    """Body and content type by path."""
    folder = files("flowherd_supervisor.keeper") / "page"
    return {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
