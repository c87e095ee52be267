"""Lock that allows one `up` per deployment at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwise.errors import InputError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the deployment whose state is in `folder`; the kernel releases it when the
    process ends. InputError if another process holds it, or the folder is not writable."""
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
    """Return the error for a deployment that another process is changing."""
    return InputError(
        f"another `shardwise up` of this file is running ({folder})", remedy="wait until it ends"
    )
