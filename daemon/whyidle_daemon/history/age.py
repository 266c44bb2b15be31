"""What time it is, to tell how old a recording is: pure. No wrong clock makes a whole history too old.

A host may boot with a clock that is years off, and be set right a minute later; someone may set it by hand.
So the time that decides, ``now_s``, goes on from where it was last, kept over restarts, as CLOCK_BOOTTIME
does. Where the wall clock says the same, as it does in normal life, it is the wall clock, and a recording
goes when its age is reached. Where they differ, the wall clock may be wrong: for an hour, in which it is not
set again, nothing is made of it, and from then on the time that decides goes towards it by ``CATCH_UP``
seconds in each second. A clock that is ahead by a week thus costs nothing if it is set right within an hour,
and three hours of the history for each hour after. A host that was off for a week keeps what is too old for
two more days.

Nothing is too old that the wall clock itself does not say is.
"""

from __future__ import annotations

import math
from typing import Final

AGREE_S: Final = 3600.0
CATCH_UP: Final = 3.0
SAME_S: Final = 60.0
"""Clocks that differ by no more are the same: one is set a little all the time (NTP)."""


class Age:
    """Told both clocks from time to time. ``known_s``: what ``now_s`` was last, of a daemon before."""

    def __init__(self, wall_s: float, boot_s: float, known_s: float | None = None) -> None:
        self.now_s = known_s if known_s is not None and math.isfinite(known_s) else wall_s
        self._wall_s, self._boot_s, self._since_s = wall_s, boot_s, boot_s
        if abs(wall_s - self.now_s) <= SAME_S:
            self.now_s = wall_s

    def look(self, wall_s: float, boot_s: float) -> None:
        """The wall clock and CLOCK_BOOTTIME say this now."""
        passed_s = max(0.0, boot_s - self._boot_s)
        if abs(wall_s - self._wall_s - passed_s) > SAME_S:
            self._since_s = boot_s
        self._wall_s, self._boot_s = wall_s, boot_s
        self.now_s += passed_s
        apart_s = wall_s - self.now_s
        trusted_s = min(passed_s, boot_s - self._since_s - AGREE_S)
        if abs(apart_s) <= SAME_S:
            self.now_s = wall_s
        elif trusted_s > 0:
            self.now_s += math.copysign(min(abs(apart_s), CATCH_UP * trusted_s), apart_s)

    @property
    def sure(self) -> bool:
        """Both agree: the wall clock is right, as far as can be known."""
        return self.now_s == self._wall_s

    @property
    def ahead(self) -> bool:
        """The wall clock seems to be behind."""
        return self.now_s > self._wall_s

    def too_old_s(self, max_age_s: float) -> float:
        """What was written before this is too old."""
        return min(self.now_s, self._wall_s) - max_age_s
