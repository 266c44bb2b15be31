"""What can go wrong on the wire. Messages are sentences for the user, without a trailing full stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whyidle_wire.records import Failure, Record


class WireError(Exception):
    """The other side sent something that is not this protocol, or is gone.

    ``records`` holds what the same :meth:`FrameReader.feed` call had decoded before the bad frame, so that a
    report that arrived in one piece with garbage behind it is not lost.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.records: list[Record] = []


class FrameTooLarge(WireError):  # noqa: N818 (named for the situation)
    """A frame announces, or a record needs, more bytes than this direction of the socket allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"message of {size} bytes, where {limit} are allowed")
        self.size = size
        self.limit = limit


class BadFrame(WireError):  # noqa: N818
    """A frame is not msgpack, not a record, or has a field of the wrong type."""


class Disconnected(WireError):  # noqa: N818
    """The other side closed the connection, perhaps in the middle of a frame, or takes no bytes any more."""


class Refused(WireError):  # noqa: N818
    """The daemon answered a request, or the handshake, with a :class:`~whyidle_wire.records.Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
