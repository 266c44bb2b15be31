"""The same scenarios when nothing is known of the model but its GPU's samples: NVML alone, simulated.

The model's library has a name that nobody looks for, so no uprobe sees it; the GPU computes when it does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import report_schema

from simulators import llama_gpu
from simulators.nvml import SimulatedGpus

from .play_runner import Told, play
from .test_scenarios import ATTRIBUTED, CALL, GUILTY

pytestmark = [pytest.mark.bpf, pytest.mark.model]


def on_a_gpu(name: str, folder: Path) -> Told:
    gpus = SimulatedGpus(folder / "gpus")
    told = play(name, folder, llama_gpu.environment(gpus, visible=False))
    report_schema.check(told.report)
    assert (told.engine["kind"], told.engine["simulated"]) == ("nvml", True)
    assert told.engine["idle_attributed_s"] >= ATTRIBUTED * told.engine["idle_s"]
    return told


@pytest.mark.parametrize("name", list(GUILTY))
def test_the_root_is_found_from_samples_alone(name: str, tmp_path: Path) -> None:
    """From the device to the process that holds it, its driver thread, and from there to the search."""
    guilty = GUILTY[name]
    told = on_a_gpu(name, tmp_path)
    top = told.report["idle_by_cause"][0]
    assert (top["cause"], told.role(top["pid"]), top["function"]) == ("network", guilty.role, guilty.function)
    way = tuple(dict.fromkeys(told.role(link["pid"]) for link in top["chain"]))
    assert (way[0], way[-1]) == (guilty.way[0], guilty.way[-1])
    assert {(role, function) for kind, role, function in told.blamed if kind == CALL} == {
        (guilty.role, guilty.function)
    }


def test_nobody_calls(tmp_path: Path) -> None:
    """A server that nobody calls has no demand, by its GPU's samples too."""
    told = on_a_gpu("nobody_calls", tmp_path)
    top = told.report["idle_by_cause"][0]
    assert (top["cause"], told.role(top["pid"])) == ("no_demand", "serve")
    assert {(kind, role) for kind, role, _ in told.blamed} == {("no_demand", "serve")}


def test_saturated(tmp_path: Path) -> None:
    """Two agents that ask for more than there is: nobody is guilty.

    A GPU is an engine from when the model was loaded: what came before the first call may keep it below the
    90 % that make it saturated.
    """
    told = on_a_gpu("saturated", tmp_path)
    assert told.blamed_while_asked <= {("engine_saturated", "serve")}
    assert told.engine["busy_s"] > 2 * told.engine["idle_s"]
