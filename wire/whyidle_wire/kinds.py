"""The number of each record on the wire and on disk.

Append-only: a number is never changed and never used again, not even for a record that is gone.
"""

from __future__ import annotations

from typing import Final

from whyidle_wire import records as r

KINDS: Final[dict[int, type[r.Record]]] = {
    # 1-9: connection
    1: r.Hello,
    2: r.Welcome,
    3: r.Failure,
    # 10-19: observation
    10: r.Observe,
    11: r.Observing,
    12: r.Finish,
    13: r.Report,
    14: r.Progress,
    15: r.Ended,
    # 20-29: subscription
    20: r.Subscribe,
    21: r.Subscribed,
    # 30-39: stream and status
    30: r.FindingEvent,
    31: r.SliceEvent,
    32: r.ProcessEvent,
    33: r.Dropped,
    34: r.Status,
    35: r.StatusReply,
    36: r.StallEvent,
    # 50-59: targets
    50: r.ListTargets,
    51: r.TargetList,
}

KIND_OF: Final[dict[type[r.Record], int]] = {cls: kind for kind, cls in KINDS.items()}

TO_DAEMON: Final = frozenset(
    KIND_OF[cls] for cls in (r.Hello, r.Observe, r.Finish, r.Subscribe, r.Status, r.ListTargets)
)
"""What a client may send; the daemon decodes nothing else."""
