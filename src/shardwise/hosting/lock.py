"""One `up` of a deployment at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwise.errors import InputError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the lock of the deployment whose state is in `folder`; the kernel lets go of it however
    its holder ends. InputError where another holds it, or the folder cannot be written."""
    try:
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}", remedy="make it writable"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise busy(folder) from None
        yield


def busy(folder: Path) -> InputError:
    """Error for a deployment that another process is changing."""
    return InputError(
        f"another `shardwise up` of this file is at work ({folder})", remedy="wait until it ends"
    )
