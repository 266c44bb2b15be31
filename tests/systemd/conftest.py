"""These run under a real systemd, in the container that ``boot.sh`` starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "WHYIDLE_SYSTEMD" in os.environ:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(
                pytest.mark.skip(reason="installs a service: make test-systemd does it in a container")
            )
