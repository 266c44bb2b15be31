"""Shared by the agent's tests: the generated model, and the rule for skipping."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from whyidle_agent.model_file import generated_model


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs llama-cpp-python where it is missing, unless WHYIDLE_REQUIRE asks for it."""
    if item.get_closest_marker("model") is None:
        return
    missing = [name for name in ("llama_cpp", "gguf", "numpy") if importlib.util.find_spec(name) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if "model" in os.environ.get("WHYIDLE_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the generated model, made afresh for this session."""
    return generated_model(tmp_path_factory.mktemp("model") / "generated.gguf")


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Keep the proxies of the machine that runs the tests away from servers on its loopback."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield
