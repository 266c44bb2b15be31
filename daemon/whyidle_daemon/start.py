"""The entry point ``whyidled``: what must come before the first import of everything else."""

from __future__ import annotations

import sys

from whyidle_daemon import left_out, start_priority


def main() -> int:
    """See :func:`whyidle_daemon.main.main`."""
    start_priority.raise_it()
    left_out.keep_out()
    from whyidle_daemon.main import main as daemon  # noqa: PLC0415 (after the above)

    return daemon()


if __name__ == "__main__":
    sys.exit(main())
