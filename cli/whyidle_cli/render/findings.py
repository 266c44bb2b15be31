"""The findings: what cost the most time, and what to do about it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from whyidle_cli.render.chain import chain_text
from whyidle_cli.render.text import fit, gauge, peer_text, wrap
from whyidle_cli.render.units import TIMES, percent, seconds
from whyidle_cli.sanitize import sanitize

SEVERITY_STYLE: Final = {
    "high": "bold white on red",
    "medium": "bold black on yellow",
    "low": "bold black on cyan",
    "info": "bold white on blue",
}
_INDENT: Final = " " * 5
_LABEL: Final = 12
_BAR: Final = 28


def title(finding: dict[str, Any]) -> str:
    """``blocking network call``."""
    return sanitize(str(finding["kind"]), 40).replace("_", " ")


def who(finding: dict[str, Any], processes: dict[int, str]) -> str:
    """``thread worker (tid 4714) of python (pid 4711)``."""
    pid, tid = finding["pid"], finding["tid"]
    name = sanitize(processes.get(pid, ""), 40)
    process = f"{name} (pid {pid})" if name else f"pid {pid}"
    if tid is None:
        return process
    if tid == pid:
        return f"main thread of {process}"
    return f"thread {sanitize(str(finding['thread'] or '?'), 30)} (tid {tid}) of {process}"


def place(finding: dict[str, Any]) -> str:
    """Where the thread waited: the user's function and line if they are known, and the system call."""
    function, file, line = finding.get("function"), finding.get("file"), finding.get("line")
    parts = []
    if function:
        parts.append(f"{sanitize(str(function), 60)}()")
    if file:
        parts.append(f"({sanitize(PurePath(str(file)).name, 60)}{f':{line}' if line else ''})")
    code = " ".join(parts)
    syscall = sanitize(str(finding.get("syscall") or ""), 30)
    if code and syscall:
        return f"{code}, system call {syscall}"
    return code or (f"system call {syscall}" if syscall else "")


def times(finding: dict[str, Any]) -> str:
    """How often and how long: the mean, the longest, the sum."""
    number, blocked = finding["count"], finding["blocked_s"]
    if not blocked:  # it is not about time
        return ""
    if not number:
        return seconds(blocked)
    longest = finding.get("longest_s")
    if number == 1:
        return f"once, {seconds(blocked)}"
    most = f" (longest {seconds(longest)})" if longest is not None else ""
    return f"{number} {TIMES} {seconds(blocked / number)}{most} = {seconds(blocked)}"


def _head(number: int, finding: dict[str, Any], width: int) -> Text:
    severity = str(finding["severity"])
    saves = finding["saves_s"]
    gain = f"saves up to {seconds(saves)}" if saves else ""
    badge = f" {severity.upper()} "
    room = width - 4 - len(badge) - 2 - cell_len(gain) - 2
    name = fit(title(finding), room)
    line = Text.assemble(
        (f"{number:>2}  ", "bold"), (badge, SEVERITY_STYLE.get(severity, "bold")), "  ", (name, "bold")
    )
    line.pad_right(width - line.cell_len - cell_len(gain))
    return line.append(gain, "bold green")


def finding_lines(number: int, finding: dict[str, Any], processes: dict[int, str], width: int) -> list[Text]:
    """One finding as lines of at most ``width`` cells; ``processes`` maps a PID to its command."""
    lines = [_head(number, finding, width)]

    def say(label: str, words: str, style: str = "") -> None:
        if words:
            body = wrap(words, width - len(_INDENT) - _LABEL, style)
            for row, line in enumerate(body):
                head = Text.assemble(_INDENT, ((label if row == 0 else "").ljust(_LABEL), "dim"))
                lines.append(head.append_text(line))

    say("who", who(finding, processes))
    say("where", place(finding), "bold")
    say("waits for", peer_text(finding["peer"]), "bold")
    say("chain", chain_text(finding.get("chain") or [], processes))
    say("how long", times(finding))
    share = finding["share_of_idle"]
    if share is not None:
        idle = finding["engine_idle_s"]
        said = f" of the idle time{f', {seconds(idle)}' if idle is not None else ''}"
        drawn = gauge(share, min(_BAR, width - 52), "magenta")
        label = ("explains".ljust(_LABEL), "dim")
        words = (fit(said, width - len(_INDENT) - _LABEL - len(drawn) - 6), "")
        lines.append(Text.assemble(_INDENT, label, drawn, " ", (percent(share), "bold"), words))
    reasons = "; ".join(sanitize(str(reason), 300) for reason in finding["confidence_reasons"])
    say("confidence", sanitize(str(finding["confidence"]), 20) + (f": {reasons}" if reasons else ""))
    say("fix", str(finding["advice"]), "green")
    return lines
