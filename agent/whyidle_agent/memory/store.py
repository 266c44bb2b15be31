"""The vector store on disk: SQLite with sqlite-vec, one row per interaction.

A step is written in one transaction together with how far the history was read, so that the store holds a
step or does not, and whoever opens it next goes on from there. The vectors lie in an ordinary table:
sqlite-vec compares them one by one there as in its own, and a deleted row's pages are used again.
"""

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whyidle_agent.errors import AgentError
from whyidle_agent.memory.interaction import Interaction

FORMAT = 1
_CACHE_KB = 256  # of its pages in this process; the kernel has them too
_TABLES = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS interaction (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL, step INTEGER NOT NULL, kind TEXT NOT NULL,
    text TEXT NOT NULL, at REAL NOT NULL, times INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_digest ON interaction (digest);
CREATE INDEX IF NOT EXISTS by_time ON interaction (at);
"""


class StoreFullError(Exception):
    """There is no room on the disk: nothing of the transaction was written."""


@dataclass(frozen=True)
class Found:
    """An interaction that is near a question; `distance`: of the directions, 0 (equal) to 2 (opposite)."""

    interaction: Interaction
    distance: float


class VectorStore:
    """The file at `path`, for one process at a time."""

    def __init__(self, path: Path, dimensions: int, model: str) -> None:
        """Open or make it, for vectors of `dimensions` numbers made by `model`; raises AgentError.

        Vectors of another model mean something else, so a store of them is refused.
        """
        self.path = path
        self._connection: sqlite3.Connection | None = None
        if path.is_symlink():
            raise AgentError(f"{path} is a symbolic link", "remove it: the store is made again")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open(path)
            with self._safely():
                self._connection.executescript(_TABLES)
                made = self._state("format"), self._state("model"), self._state("dimensions")
                if made == (None, None, None):
                    self._connection.executemany(
                        "INSERT INTO state VALUES (?, ?)",
                        [("format", FORMAT), ("model", model), ("dimensions", dimensions)],
                    )
                    self._connection.commit()
                elif made != (FORMAT, model, dimensions):
                    raise AgentError(
                        f"{path} holds vectors of another model or version",
                        "remove it, and it is made again from the history; or use that model",
                    )
        except StoreFullError as error:
            self.close()
            raise AgentError(
                f"cannot make {path}: {error}", "make room, or give another --workdir DIR"
            ) from error
        except OSError as error:
            raise AgentError(
                f"cannot use {path.parent}: {error.strerror}", "give another --workdir DIR"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within, or nothing of it; raises StoreFullError, or AgentError."""
        with self._safely():
            try:
                yield
                self._db.commit()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.rollback()
                raise

    @property
    def offset(self) -> int:
        """Return how many bytes of the history are in the store."""
        with self._safely():
            value = self._state("offset")
        return value if isinstance(value, int) else 0

    def set_offset(self, offset: int) -> None:
        """Note that the history is in the store up to byte `offset`."""
        self._db.execute("INSERT OR REPLACE INTO state VALUES ('offset', ?)", (offset,))

    def add(self, interaction: Interaction, vector: Sequence[float], at: float) -> None:
        """Add one; `at`: seconds since the epoch."""
        one = interaction
        self._db.execute(
            "INSERT INTO interaction (digest, step, kind, text, at, times, vector) "
            "VALUES (?, ?, ?, ?, ?, 1, ?)",
            (one.digest, one.step, one.kind, one.text, at, packed(vector)),
        )

    def again(self, interaction: Interaction, at: float) -> bool:
        """Count one whose content is there already, and let it live on from `at`; gives whether it is."""
        changed = self._db.execute(
            "UPDATE interaction SET times = times + 1, at = max(at, ?), step = ? WHERE digest = ?",
            (at, interaction.step, interaction.digest),
        )
        return changed.rowcount > 0

    def expire(self, before: float) -> int:
        """Remove what did not come up since `before`, seconds since the epoch; gives how many that were."""
        return self._db.execute("DELETE FROM interaction WHERE at < ?", (before,)).rowcount

    def compact(self) -> None:
        """Give the room of what was removed back to the file system; raises StoreFullError."""
        with self._safely():
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def nearest(self, vector: Sequence[float], most: int) -> list[Found]:
        """Return the `most` different contents nearest to `vector`, the nearest first."""
        with self._safely():
            # Several times as many, because a store of the unbounded policy has each content twice or more.
            rows = self._db.execute(
                "SELECT step, kind, text, vec_distance_cosine(vector, ?) AS distance FROM interaction "
                "WHERE distance IS NOT NULL GROUP BY digest ORDER BY distance, id LIMIT ?",
                (packed(vector), most),
            ).fetchall()
        return [Found(Interaction(step, kind, text), distance) for step, kind, text, distance in rows]

    def everything(self) -> Iterator[tuple[Interaction, bytes]]:
        """Yield all there is with its vector, in the order in which it was added."""
        with self._safely():
            rows = self._db.execute("SELECT step, kind, text, vector FROM interaction ORDER BY id")
            for step, kind, text, vector in rows:
                yield Interaction(step, kind, text), vector

    def count(self) -> int:
        """Return the number of rows."""
        with self._safely():
            return int(self._db.execute("SELECT count(*) FROM interaction").fetchone()[0])

    def size(self) -> int:
        """Return the bytes on disk, those that are not yet in the main file included."""
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _state(self, key: str) -> object:
        row = self._db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            # A file system that is full says so at a write (FULL), at a flush or a truncation (IOERR).
            if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_room(self.path.parent)):
                raise StoreFullError("no space left on the device") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                todo = "another agent works in this folder: give another --workdir DIR"
            else:
                todo = "remove it: the store is made again from the history"
            raise AgentError(f"cannot use the memory store {self.path}: {error}", todo) from error


def packed(vector: Sequence[float]) -> bytes:
    """Return numbers as sqlite-vec takes them: float32, one after the other."""
    return struct.pack(f"{len(vector)}f", *vector)


def _open(path: Path) -> sqlite3.Connection:
    try:
        import sqlite_vec  # noqa: PLC0415 - optional: only an agent with a memory needs it
    except ImportError as error:
        raise AgentError("--memory needs the package sqlite-vec", "run: make setup") from error
    connection = sqlite3.connect(path, timeout=0.0, isolation_level="IMMEDIATE")
    try:
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
        connection.enable_load_extension(False)
    except (AttributeError, sqlite3.Error) as error:
        connection.close()
        raise AgentError(
            f"this Python's sqlite3 cannot load sqlite-vec: {error}",
            "use the distribution's Python, or run without --memory",
        ) from error
    # Exclusive: a second agent in the folder is told so, and no shared memory file is needed.
    for pragma in (
        "auto_vacuum = INCREMENTAL",
        "locking_mode = EXCLUSIVE",
        "synchronous = NORMAL",
        f"cache_size = -{_CACHE_KB}",
    ):
        with contextlib.suppress(sqlite3.Error):  # what is wrong with the file is found out by the caller
            connection.execute(f"PRAGMA {pragma}").fetchall()
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    return connection


def _no_room(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 1 << 16
