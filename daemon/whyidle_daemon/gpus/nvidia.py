"""NVIDIA's GPUs as a source: opens the driver, reads it, and takes it up again after it was away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from whyidle_daemon.facts import GpuSample
from whyidle_daemon.gpus import nvml
from whyidle_daemon.gpus.nvml import Device, DriverGoneError, GpuLostError, Nvml
from whyidle_daemon.gpus.sampler import RETRY_S, GpuProcesses, Reading

log = logging.getLogger(__name__)


class Nvidia:
    """All NVIDIA GPUs of the host."""

    def __init__(
        self, open_nvml: Callable[[], Nvml] = Nvml, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open = open_nvml
        self._clock = clock
        self._nvml: Nvml | None = None
        self._failures = 0
        self._next_try = 0.0
        self._seen: set[str] = set()
        self._lost: dict[str, float] = {}

    def present(self) -> bool:
        """Whether there is a libnvidia-ml.so.1."""
        return nvml.present()

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def read(self, pids: frozenset[int], state: bool) -> Iterable[Reading]:
        """What is new of all of them."""
        try:
            yield from self._read(state)
        except DriverGoneError as error:
            yield from self._gone(str(error))

    def _read(self, state: bool) -> Iterator[Reading]:
        if self._nvml is None:
            if self._clock() < self._next_try:
                return
            self._nvml = self._open()
            if self._failures:
                log.info("the NVIDIA driver is back")
            self._failures = 0
            self._lost.clear()
            for device in self._nvml.devices:
                self._seen.add(device.facts.gpu)
                yield device.facts
        for device in self._nvml.devices:
            yield from self._device(self._nvml, device, state)

    def _device(self, driver: Nvml, device: Device, state: bool) -> Iterator[Reading]:
        if self._lost.get(device.facts.gpu, 0.0) > self._clock():
            return
        try:
            yield from driver.spans(device)
            if state:
                yield driver.state(device)
                rows = driver.processes(device)
                yield GpuProcesses(device.facts.gpu, time.monotonic_ns(), tuple(rows))
            self._lost.pop(device.facts.gpu, None)
        except GpuLostError as error:
            if device.facts.gpu not in self._lost:
                log.warning("GPU %s: %s", device.facts.gpu, error)
            self._lost[device.facts.gpu] = self._clock() + RETRY_S[2]
            device.utilization.restart()
            yield GpuSample(device.facts.gpu, time.monotonic_ns(), None, None, None, str(error))

    def _gone(self, why: str) -> Iterator[Reading]:
        if self._nvml is not None or not self._failures:
            log.warning("NVIDIA driver: %s", why)
        self.close()
        self._next_try = self._clock() + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        for gpu in sorted(self._seen):
            yield GpuSample(gpu, time.monotonic_ns(), None, None, None, why)
