"""Why a recording cannot be written or read: one class per situation, with the next step as ``hint``.

Messages may quote a file name, which may hold anything: sanitise them before a terminal sees them.
"""

from __future__ import annotations

from pathlib import Path


class RecordingError(Exception):
    """Base of all; never raised itself. ``str(error)`` says what happened, ``hint`` what to do."""

    hint = "record again: whyidle run --record FILE -- CMD"


class CannotRecord(RecordingError):  # noqa: N818 (these are named for the situation)
    """The file cannot be created. ``exists``: something is there already; ``denied``: not allowed."""

    def __init__(self, path: str, reason: str, *, exists: bool = False, denied: bool = False) -> None:
        super().__init__(f"cannot record to {path}: {reason}")
        self.denied = denied
        if exists:
            self.hint = "a recording never replaces a file: name another one, or remove this one"
        elif denied:
            self.hint = "name a file in a directory that you may write to and the daemon can reach"
        else:
            self.hint = "name a new file in a directory that exists"


class CannotRead(RecordingError):  # noqa: N818
    """There is no such file, it is no regular file, or this user may not read it."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.hint = "name a file that whyidle run --record or whyidle attach --record has written"


class EmptyRecording(RecordingError):  # noqa: N818
    """Not one byte."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(f"{path} is empty")


class NotARecording(RecordingError):  # noqa: N818
    """Another kind of file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(f"{path} is not a whyidle recording")
        self.hint = "name a file that whyidle run --record or whyidle attach --record has written"


class NewerRecording(RecordingError):  # noqa: N818
    """A version of the format, or a compression, that this release does not have."""

    def __init__(self, path: str | Path, what: str) -> None:
        super().__init__(f"{path} was written by a newer whyidle ({what})")
        self.hint = "install that release of whyidle to read it"


class TruncatedRecording(RecordingError):  # noqa: N818
    """The file ends before the first whole block, so there is nothing to report."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(f"{path} ends before anything was recorded")


class DamagedRecording(RecordingError):  # noqa: N818
    """Bytes have changed, and what is before them is not enough for a report."""

    def __init__(self, path: str | Path, what: str) -> None:
        super().__init__(f"{path} is damaged: {what}")
        self.hint = "restore the file from a copy, or record again"


class BadBlockError(ValueError):
    """A block that cannot be used; internal to this package, the text completes "block N …"."""


class MalformedError(ValueError):
    """A record that breaks the format in a block whose checksum is right; internal to this package."""
