"""The store of measured cells: one SQLite file, one transaction per cell.

SQLite is used because one process writes a cell at a time while others read, and because an
interrupted file opens at its last complete cell (write-ahead log).
"""

from __future__ import annotations

import datetime as dt
import math
import os
import sqlite3
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec

from shardwise.errors import InputError
from shardwise.evidence.measured import Measured, Repeat
from shardwise.evidence.older import evidence_of
from shardwise.evidence.request import RequestRecord

VERSION: Final = 2  #: 1 wrote deployments flat; `older` reads them
_APPLICATION: Final = 0x53484457  #: "SHDW", so that another program's file is told apart
_MAGIC: Final = b"SQLite format 3\x00"
_SCHEMA: Final = """
CREATE TABLE cell (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL,
    key TEXT NOT NULL,
    created TEXT NOT NULL,
    evidence TEXT NOT NULL,
    conditions TEXT NOT NULL,
    UNIQUE (study, key)
);
CREATE TABLE repeat (
    id INTEGER PRIMARY KEY,
    cell INTEGER NOT NULL REFERENCES cell (id) ON DELETE CASCADE,
    started_s REAL, ended_s REAL, window_from_s REAL, window_to_s REAL,
    client TEXT NOT NULL
);
CREATE TABLE request (
    repeat INTEGER NOT NULL REFERENCES repeat (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    origin_s REAL, sent_s REAL, last_s REAL, done_s REAL,
    output_asked INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    usage_reported INTEGER NOT NULL, failure TEXT, detail TEXT NOT NULL, cancelled INTEGER NOT NULL,
    arrivals BLOB NOT NULL
);
CREATE INDEX request_repeat ON request (repeat);
CREATE INDEX repeat_cell ON repeat (cell);
"""
_COLUMNS: Final = tuple(
    f.name for f in fields(RequestRecord) if f.name not in {"index", "arrivals"}
)


_BUSY_S: Final = 30.0  #: seconds to wait for another process that locks the store


class UnkeptError(InputError):
    """A cell could not be written to its store. `beside` is the other store that it was written
    to, None if that failed too."""

    def __init__(self, reason: str, beside: Path | None) -> None:
        where = (
            f"the cell is in {beside}" if beside else "the cell could not be saved elsewhere either"
        )
        super().__init__(reason, where)
        self.beside = beside


class Store:
    """Cells by (study, key). Open it with `open_store`; close it, or use it in a `with`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def put(self, cell: Measured) -> None:
        """Write `cell` atomically; a cell with the same study and key is replaced.

        Raises UnkeptError if it cannot be written, after saving it in another store.
        """
        try:
            self._put(cell)
        except InputError as error:
            raise UnkeptError(str(error), _put_beside(self.path, cell)) from None

    def _put(self, cell: Measured) -> None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        row = (cell.study, cell.key, now, _json(cell.evidence), _json(cell.conditions))
        with self._writing():
            self._db.execute("DELETE FROM cell WHERE study = ? AND key = ?", (cell.study, cell.key))
            number = self._db.execute(
                "INSERT INTO cell (study, key, created, evidence, conditions) VALUES (?,?,?,?,?)",
                row,
            ).lastrowid
            for repeat in cell.repeats:
                self._put_repeat(number, repeat)

    def _put_repeat(self, cell: int | None, repeat: Repeat) -> None:
        row = (cell, repeat.started_s, repeat.ended_s, *repeat.window_s, _json(repeat.client))
        number = self._db.execute(
            "INSERT INTO repeat (cell, started_s, ended_s, window_from_s, window_to_s, client)"
            " VALUES (?,?,?,?,?,?)",
            row,
        ).lastrowid
        marks = ",".join("?" * (3 + len(_COLUMNS)))
        self._db.executemany(
            f"INSERT INTO request (repeat, number, {', '.join(_COLUMNS)}, arrivals)"
            f" VALUES ({marks})",
            (
                (number, r.index, *(getattr(r, c) for c in _COLUMNS), r.arrivals.tobytes())
                for r in repeat.records
            ),
        )

    def has(self, study: str, key: str) -> bool:
        """Return whether a study has a result for the cell `key`."""
        return bool(self._read("SELECT 1 FROM cell WHERE study = ? AND key = ?", (study, key)))

    def studies(self) -> list[str]:
        """Return the names of the studies, the oldest first."""
        rows = self._read("SELECT study FROM cell GROUP BY study ORDER BY min(id)")
        return [name for (name,) in rows]

    def cells(self, study: str | None = None) -> list[Measured]:
        """Return the cells of a study (None: all) in insertion order, without raw requests."""
        chosen = "" if study is None else "WHERE study = ?"
        rows = self._read(
            f"SELECT study, key, evidence, conditions FROM cell {chosen} ORDER BY id",
            () if study is None else (study,),
        )
        with _sound(self.path):
            return [
                Measured(name, key, evidence_of(evidence), _decoded(other, dict))
                for name, key, evidence, other in rows
            ]

    def repeats(self, study: str, key: str) -> list[Repeat]:
        """Return the runs of one cell with their raw requests."""
        rows = self._read(
            "SELECT repeat.id, started_s, ended_s, window_from_s, window_to_s, client FROM repeat"
            " JOIN cell ON cell.id = repeat.cell WHERE study = ? AND key = ? ORDER BY repeat.id",
            (study, key),
        )
        with _sound(self.path):
            return [
                Repeat(
                    _number(started),
                    _number(ended),
                    (_number(begin), _number(end)),
                    tuple(self._records(number)),
                    _decoded(client, dict),
                )
                for number, started, ended, begin, end, client in rows
            ]

    def _records(self, repeat: int) -> Iterator[RequestRecord]:
        names = ", ".join(_COLUMNS)
        for index, *values, arrivals in self._read(
            f"SELECT number, {names}, arrivals FROM request WHERE repeat = ? ORDER BY number",
            (repeat,),
        ):
            cells = dict(zip(_COLUMNS, values, strict=True))
            for name in ("origin_s", "sent_s", "last_s", "done_s"):
                cells[name] = _number(cells[name])
            for name in ("usage_reported", "cancelled"):
                cells[name] = bool(cells[name])
            times = array("d")
            times.frombytes(arrivals)
            yield RequestRecord(index=index, arrivals=times, **cells)

    def _read(self, query: str, given: tuple[object, ...] = ()) -> list[Any]:
        """Return every row of a query. Raises InputError if the file is damaged."""
        with _sound(self.path):
            return self._db.execute(query, given).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise InputError(f"cannot write {self.path}: {error}") from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            with suppress(sqlite3.Error):  # the failed statement may already have been rolled back
                self._db.execute("ROLLBACK")


def _put_beside(path: Path, cell: Measured) -> Path | None:
    """Save `cell` in a new store next to `path`, else in the temporary folder; return its path."""
    for folder in (path.parent, Path(tempfile.gettempdir())):
        free = (folder / f"{path.stem}.unsaved-{n}{path.suffix}" for n in range(1, 1000))
        beside = next((each for each in free if not each.exists()), None)
        if beside is None:
            continue
        try:
            with open_store(beside) as other:
                other._put(cell)
        except InputError:
            for left in (beside, Path(f"{beside}-wal"), Path(f"{beside}-shm")):
                with suppress(OSError):
                    left.unlink(missing_ok=True)
        else:
            return beside
    return None


def is_store(path: Path) -> bool:
    """Return whether the file is an SQLite database; `open_store` checks whether it is a store."""
    try:
        with path.open("rb") as handle:
            return handle.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def open_store(path: Path, *, create: bool = True, busy_s: float = _BUSY_S) -> Store:
    """Open the store at `path`; create it if missing and `create` is set.

    Without `create`, an unwritable store is opened read-only. `busy_s` is how long to wait for a
    lock. Raises InputError if it cannot be opened or is not a store.
    """
    if not create and not path.is_file():
        raise InputError(f"no store at {path}", "pass a file written by 'shardwise bench'")
    try:
        if not create and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return Store(_read_only(path), path)
        # autocommit, with BEGIN written out: a transaction is exactly what `put` says it is
        db = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
        _prepare(db, path)
        if create:  # it will be written later: report now if that is impossible
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
    except (sqlite3.Error, UnicodeError) as error:
        refused = isinstance(
            error, sqlite3.OperationalError
        )  # an error of the system, not of the format
        allowed = "a writable location" if refused else "a file written by 'shardwise bench'"
        raise InputError(f"cannot open {path} as a store: {error}", f"allowed: {allowed}") from None
    return Store(db, path)


def _read_only(path: Path) -> sqlite3.Connection:
    """Open a read-only connection. A store without a log file is complete, so it is opened as
    immutable, because SQLite could not create the log's index in a read-only folder."""
    log = Path(f"{path}-wal")
    whole = "" if log.exists() and log.stat().st_size else "&immutable=1"
    uri = f"file:{quote(str(path.resolve()))}?mode=ro{whole}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    _check(db, path)
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a cell that was reported as finished survives a crash
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(
            f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA application_id = {_APPLICATION};"
            f"PRAGMA user_version = {VERSION};COMMIT;"
        )
    _check(db, path)


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raise InputError unless `db` is a store of this version."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        db.close()
        raise InputError(f"{path} is another program's database", "", "choose another file")
    if version not in range(1, VERSION + 1):
        db.close()
        raise InputError(
            f"{path} is a store of version {version}",
            f"allowed: 1 to {VERSION}",
            "upgrade shardwise",
        )


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn errors from damaged contents of `path` into InputError."""
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise InputError(f"{path} contains a cell in an unknown format: {error}") from None


def _decoded(text: str, kind: type[Any]) -> Any:
    return msgspec.json.decode(text, type=kind)


def _json(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: object) -> object:
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(type(value).__name__)


def _number(value: float | None) -> float:
    """SQLite stores NaN as NULL."""
    return math.nan if value is None else float(value)
