"""Where the project keeps what is made once, and how a file is written so that no reader sees half of it."""

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Return whyidle's cache folder: WHYIDLE_CACHE, else XDG_CACHE_HOME/whyidle, else ~/.cache/whyidle."""
    own = os.environ.get("WHYIDLE_CACHE")
    if own:
        return Path(own)
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path is invalid and is to be ignored.
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "whyidle"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file holding `data`; a reader sees the old file or the whole new one.

    Raises OSError; the temporary file is gone then.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)  # mkstemp makes 0600, and these files are for other programs to read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
