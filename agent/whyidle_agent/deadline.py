"""By when a synchronous answer has to be there: httpx bounds each read, not what they add up to.

A server that repeats `103 Early Hints`, or sends a byte of a header now and then, would be waited for without
end. The asynchronous tools have asyncio's own timeout for that.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx


class Deadline:
    """Ends the requests that are given its `extensions` before their first read that would begin too late.

    For one client's requests, one after the other. A read that began in time has httpx's own timeout.
    """

    def __init__(self, timeout_s: float = 0.0) -> None:
        self.extensions: dict[str, Any] = {"trace": self._trace}
        self.set(timeout_s)

    def set(self, timeout_s: float) -> None:
        """Begin anew: `timeout_s` from now, seconds."""
        self._at = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Return the time that is left, seconds; negative when it is over."""
        return self._at - time.monotonic()

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        # httpx tells of a connection in no other way than this, and offers no other to read from it.
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            stream.__class__ = self._checked(type(stream))

    def _checked(self, kind: type[Any]) -> type[Any]:
        """Return `kind` of stream, with a look at the clock whenever its method `read` is looked up.

        Not one that calls it: an observer takes the innermost function of a program's own, of those that
        wait for a read, for the one that asked for it.
        """

        def read(stream: Any) -> Callable[..., bytes]:
            if self.left_s <= 0:
                raise httpx.ReadTimeout("the answer takes too long")
            method: Callable[..., bytes] = kind.read.__get__(stream)
            return method

        return type(kind.__name__, (kind,), {"read": property(read)})
