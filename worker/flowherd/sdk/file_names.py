"""Names of files on this host and in the engine (protocol.md §9.3, faults.md F1)."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath

from flowherd.errors import InvalidFile

MAX_NAME_BYTES = 255
NEUTRAL = "file"
_DIGEST_CHARS = 12  # 48 bits: among a million iterations of one loop, a collision has a chance of 1 in 500
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,10})+", re.ASCII)
_PORTS = {f"{port}{number}" for port in ("COM", "LPT") for number in range(10)}
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *_PORTS}


def is_plain(name: str) -> bool:
    """True when every system and shell reads the name as one file in the current folder."""
    return (
        bool(name)
        and name.isprintable()
        and not {"/", "\\"} & set(name)
        and not name.startswith("-")
        and not name.endswith((".", " "))
        and name.partition(".")[0].rstrip().upper() not in _RESERVED
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def local_name(name: str) -> str:
    """Returns the local name of a downloaded file: its own name if that is plain, else `file` and its suffix."""
    return name if is_plain(name) else NEUTRAL + _suffix(name)


def upload_name(name: str) -> str:
    """Returns the name that a handler chose, unchanged.

    Raises:
        InvalidFile: the name is not a plain one and could be dangerous where the file is downloaded.

    """
    if not isinstance(name, str) or not is_plain(name):
        raise InvalidFile("filename should be one plain name without folders, at most 255 bytes long")
    return name


def default_upload_name(local: str, activity_id: str) -> str:
    """Returns the local file's name with a digest of the activity's id: `report-3f2a….csv`.

    The engine stores one file per key and name (protocol.md §9.1), so iterations of a loop, which differ only in the
    activity's id, would overwrite each other (faults.md F9). Attempts share the id, so a repeated upload replaces its
    own file.
    """
    digest = sha256(activity_id.encode()).hexdigest()[:_DIGEST_CHARS]
    suffix = _suffix(local)
    stem = local.removesuffix(suffix) if is_plain(local) else NEUTRAL
    room = MAX_NAME_BYTES - len(suffix) - len(digest) - 1
    return f"{stem.encode()[:room].decode(errors='ignore')}-{digest}{suffix}"


def _suffix(name: str) -> str:
    """Returns the suffix that shows the kind of file, such as `.tar.gz`; "" when it is unusual."""
    suffix = "".join(PurePosixPath(name.replace("\\", "/").replace("\0", "")).suffixes[-2:])
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def local_path(path: str | os.PathLike[str]) -> Path:
    """The path as the handler meant it, whatever the working directory is later."""
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a symlink, which F3 forbids
    except (TypeError, ValueError):
        raise InvalidFile("path should be a string or a Path") from None
