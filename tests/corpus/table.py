"""The verdicts for people, the goals, and ``out/accuracy.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .compare import Verdict

OTHER_GOAL = 0.01


def print_verdict(verdict: Verdict) -> None:
    """The rest of the line that begins with the program's name; what differs below it."""
    worst = max((abs(s.error_s) for s in verdict.states), default=0.0)
    told = verdict.problem or (
        f"{len(verdict.right)} right, {len(verdict.missed)} missed, {len(verdict.wrong)} wrong"
        f"   {len(verdict.states)} states, off by {1000 * worst:.1f} ms at most"
    )
    word = "ok" if verdict.ok else "pending" if verdict.pending else "WRONG"
    print(f" {word:<8} {told}", flush=True)
    for text in differences(verdict):
        print(f"{'':33}{text}", flush=True)


def differences(verdict: Verdict) -> list[str]:
    """One line for each thing that the report has wrong."""
    lines = [f"missed: {text}" for text in verdict.missed] if not verdict.problem else []
    lines += [f"wrong:  {text}" for text in verdict.wrong]
    for s in verdict.states:
        if not s.ok:
            instead = ", ".join(f"{k} {v:.3f}" for k, v in sorted(s.others.items(), key=lambda i: -i[1])[:4])
            lines.append(f"{s.state}: {s.told_s:.3f} s, truth {s.truth_s:.3f} s (thread {s.tid}: {instead})")
    if verdict.pending and not verdict.ok:
        lines.append(f"pending: {', '.join(verdict.pending)}")
    if verdict.lost:
        lines.append(f"events lost: {verdict.lost}")
    return lines


def totals(verdicts: list[Verdict]) -> dict[str, Any]:
    """Sums over the programs that rest on nothing pending; seconds and ``other`` over all."""
    due = [v for v in verdicts if not v.pending]
    right, missed, wrong = (sum(len(getattr(v, n)) for v in due) for n in ("right", "missed", "wrong"))
    kinds = [sum(v.kinds[i] for v in due) for i in range(3)]
    states = [s for v in due for s in v.states]
    wall = sum(v.wall_s for v in verdicts)
    other = sum(sum(v.other_s.values()) for v in verdicts)
    return {
        "programs": len(verdicts),
        "ok": sum(v.ok for v in verdicts),
        "pending": len(verdicts) - len(due),
        "precision": _share(right, right + wrong),
        "recall": _share(right, right + missed),
        "precision_of_kinds": _share(kinds[0], kinds[0] + kinds[2]),
        "recall_of_kinds": _share(kinds[0], kinds[0] + kinds[1]),
        "states": len(states),
        "states_ok": sum(s.ok for s in states),
        "state_error_max_s": max((abs(s.error_s) for s in states), default=0.0),
        "other_share": other / wall if wall else 0.0,
        "other_of": _largest(verdicts),
    }


def summary(verdicts: list[Verdict]) -> bool:
    """Print the totals; whether all goals are met."""
    t = totals(verdicts)
    print(f"\n{t['ok']} of {t['programs']} programs ok, {t['pending']} rest on what has not landed yet")
    print(f"findings           precision {t['precision']:.3f}   recall {t['recall']:.3f}   (goal 1.000)")
    print(f"by kind alone      precision {t['precision_of_kinds']:.3f}   recall {t['recall_of_kinds']:.3f}")
    print(
        f"seconds per state  {t['states_ok']} of {t['states']} within max(1 %, 10 ms);"
        f" worst {1000 * t['state_error_max_s']:.1f} ms"
    )
    most = ", ".join(f"{name} {s:.2f} s" for name, s in t["other_of"])
    print(f"state 'other'      {100 * t['other_share']:.2f} % of all thread time (goal < 1 %)  {most}")
    return bool(
        all(v.ok for v in verdicts if not v.pending)
        and t["precision"] == t["recall"] == 1.0
        and t["other_share"] < OTHER_GOAL
    )


def write_json(path: Path, verdicts: list[Verdict]) -> None:
    """Totals and every verdict, for scripts."""
    path.parent.mkdir(exist_ok=True)
    rows = [
        v._asdict() | {"ok": v.ok, "states": [s._asdict() | {"ok": s.ok} for s in v.states]} for v in verdicts
    ]
    path.write_text(json.dumps({"totals": totals(verdicts), "programs": rows}, indent=1))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _largest(verdicts: list[Verdict]) -> list[tuple[str, float]]:
    found = [(f"{v.name}/{name}", s) for v in verdicts for name, s in v.other_s.items()]
    return sorted(found, key=lambda item: -item[1])[:3]
