"""Write files atomically, and read files up to a size limit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from shardwise.errors import InputError

#: A path as users of the Python API give it.
AnyPath: TypeAlias = str | os.PathLike[str]

#: Largest file that is read at once. 200,000 rows are 20 MB; a device such as /dev/zero has no end.
MOST_BYTES: Final = 1 << 30


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, so that `path` is replaced atomically.

    A device, pipe or socket is written to directly, because renaming a file over /dev/null would
    remove the device. For a link, its target is replaced.

    Raises:
        OSError: The file cannot be replaced.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def read_limited(path: Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        OSError: It cannot be read.
        InputError: It is larger than `MOST_BYTES`.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES:,} bytes", remedy="split it")
    return content


def read_utf8(path: Path) -> str:
    """Read the text of a file, without a byte order mark.

    Raises:
        OSError: It cannot be read.
        InputError: It is larger than `MOST_BYTES`, or not UTF-8.
    """
    content = read_limited(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        raise InputError(f"{path} is UTF-16 or no text", "allowed: UTF-8", "save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"{path} is not UTF-8 at line {line}"
        raise InputError(where, "allowed: UTF-8", "save it as UTF-8") from None
