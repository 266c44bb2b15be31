"""NVML, through nvidia-ml-py: the only module that imports pynvml, and only where the library is.

One gate decides what an error means. What a GPU cannot do is asked once and from then on unknown, with a
reason. A lost GPU is unknown until it is back. A driver that is gone raises :class:`DriverGoneError`: close,
and open again later. No call here changes anything of a GPU. Calls may take milliseconds, and seconds when
the driver is in trouble: never call them from the event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample
from whyidle_daemon.gpus.samples import (
    ProcessRow,
    Row,
    Utilization,
    UtilizationRow,
    gpm_span,
    process_rows,
)
from whyidle_daemon.gpus.wall_clock import WallClock, to_monotonic_ns

LIBRARY = "libnvidia-ml.so.1"
SIMULATOR = "whyidle_simulated_nvml"
"""A symbol of the tests' stand-in for the library. No driver has it, so nothing real can look simulated."""

_SAMPLES = 256
_GPU_SAMPLES, _MEMORY_SAMPLES = 1, 2
_GPM_BUSY, _GPM_TX, _GPM_RX = 1, 20, 21
_GPM_LEAST_NS = 95_000_000
_NOT_FOUND, _INSUFFICIENT_SIZE = 6, 7
_CANNOT = {3, 4, 13, 25}  # not supported, no permission, function not found, version of an argument
_LOST = {15, 16}  # GPU is lost, reset required
_GONE = {1, 9, 18}  # uninitialized, driver not loaded, library and driver differ
_US = 1000


class DriverGoneError(Exception):
    """There is no driver to talk to, now; the message says what it said."""


class GpuLostError(Exception):
    """This GPU does not answer: it fell off the bus, or wants to be reset."""


def present() -> bool:
    """Whether there is a library to load; costs a failed dlopen on hosts without NVIDIA."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class Device:
    """A GPU, or a MIG instance of one."""

    def __init__(self, handle: Any, facts: GpuFacts, parent: Any = None, instance: int | None = None) -> None:
        self.handle = handle
        self.facts = facts
        self.parent = parent
        self.instance = instance
        self.cannot: dict[str, str] = {}
        self.utilization = Utilization(facts.gpu)
        self.process_us = 0
        self.clock = WallClock()
        self.gpm: list[Any] | None = None
        self.gpm_ns = 0


class Nvml:
    """An open NVML. Raises :class:`DriverGoneError` from any method, when it is."""

    def __init__(self) -> None:
        import pynvml  # noqa: PLC0415 (8 ms and 3 MB that hosts without NVIDIA do not pay)

        self._nvml = pynvml
        self._buffer = (ctypes.c_uint64 * (2 * _SAMPLES))()
        self.devices: list[Device] = []
        try:
            pynvml.nvmlInitWithFlags(0)
        except pynvml.NVMLError as error:
            raise DriverGoneError(f"NVML does not start: {error}") from None
        self._drain = pynvml.nvmlLib.nvmlDeviceGetSamples
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    @property
    def simulated(self) -> bool:
        """Whether the library is the tests' stand-in."""
        return hasattr(self._nvml.nvmlLib, SIMULATOR)

    def close(self) -> None:
        """Let go of the driver."""
        for device in self.devices:
            for sample in device.gpm or ():
                self._ignoring(self._nvml.nvmlGpmSampleFree, sample)
            device.gpm = None
        self._ignoring(self._nvml.nvmlShutdown)

    def _ignoring(self, function: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(self._nvml.NVMLError):  # nothing depends on it
            function(*arguments)

    # --- the gate --------------------------------------------------------------------------------------

    def _ask(self, device: Device | None, what: str, name: str, *arguments: Any) -> Any:
        """Call; ``None`` is unknown (``device.cannot`` says why) or nothing new."""
        if device is not None and what in device.cannot:
            return None
        try:
            return getattr(self._nvml, name)(*arguments)
        except self._nvml.NVMLError as error:
            self._refused(device, what, error.value, str(error))
        except (AttributeError, ValueError, UnicodeDecodeError) as error:  # of pynvml, fed with nonsense
            if device is not None:
                device.cannot[what] = type(error).__name__
        return None

    def _refused(self, device: Device | None, what: str, code: int, text: str) -> None:
        if code in _GONE:
            raise DriverGoneError(text)
        if code in _LOST:
            raise GpuLostError(text)
        if code in _CANNOT and device is not None:
            device.cannot[what] = text

    # --- what there is ---------------------------------------------------------------------------------

    def _find(self) -> None:
        version = self._text(self._ask(None, "driver", "nvmlSystemGetDriverVersion"))
        count = self._ask(None, "count", "nvmlDeviceGetCount") or 0
        now = time.monotonic_ns()
        for number in range(count):
            name = f"nvml:{number}"
            try:
                handle = self._ask(None, "handle", "nvmlDeviceGetHandleByIndex", number)
                if handle is None:
                    continue
                device = self._device(handle, GpuFacts(name, now, number, "", version, None, "nvml"))
                self.devices.append(device)
                self._find_instances(device, version, now)
            except GpuLostError as error:
                facts = GpuFacts(
                    name, now, number, "", version, None, "nvml", self.simulated, "", (str(error),)
                )
                self.devices.append(Device(None, facts))

    def _find_instances(self, gpu: Device, version: str | None, now: int) -> None:
        mode = self._ask(gpu, "MIG", "nvmlDeviceGetMigMode", gpu.handle)
        if not mode or not mode[0]:
            return
        for number in range(self._ask(gpu, "MIG", "nvmlDeviceGetMaxMigDeviceCount", gpu.handle) or 0):
            mig = self._ask(gpu, "MIG", "nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, number)
            if mig is None:
                continue
            instance = self._ask(gpu, "MIG", "nvmlDeviceGetGpuInstanceId", mig)
            name = f"{gpu.facts.gpu}/{number}"
            facts = GpuFacts(name, now, gpu.facts.number, "", version, None, "nvml", parent=gpu.facts.gpu)
            self.devices.append(self._device(mig, facts, gpu.handle, instance))

    def _device(
        self, handle: Any, facts: GpuFacts, parent: Any = None, instance: int | None = None
    ) -> Device:
        device = Device(handle, facts, parent, instance)
        memory = self._memory(device)
        support = self._ask(device, "GPM", "nvmlGpmQueryDeviceSupport", parent or handle)
        if support is not None and support.isSupportedDevice:
            samples = [self._ask(device, "GPM", "nvmlGpmSampleAlloc") for _ in range(2)]
            device.gpm = samples if all(samples) else None
        name = self._text(self._ask(device, "name", "nvmlDeviceGetName", handle))
        self.spans(device)  # each once, to know what it cannot
        self.state(device)
        self.processes(device)
        unknown = tuple(f"{what}: {why}" for what, why in sorted(device.cannot.items()) if what not in _SMALL)
        device.facts = facts._replace(
            name=name or "unknown GPU",
            memory_total_bytes=memory[1] if memory else None,
            simulated=self.simulated,
            unknown=unknown,
        )
        return device

    def _text(self, value: Any) -> str | None:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    # --- what it does ----------------------------------------------------------------------------------

    def spans(self, device: Device) -> list[EngineSpan]:
        """What it did since the last call; raises :class:`GpuLostError`."""
        if device.handle is None:
            raise GpuLostError(*device.facts.unknown)
        offset_ns = to_monotonic_ns()
        if device.clock.was_set_back(offset_ns):
            self._begin_anew(device, offset_ns)
        if device.gpm is not None and "GPM" not in device.cannot:
            return self._gpm(device)
        rows = self._rows(device, "utilisation", _GPU_SAMPLES)
        if not rows:
            return []
        copies: list[Row] = []
        if any(row.value < 100 for row in rows):
            copies = self._rows(device, "copies", _MEMORY_SAMPLES)
        return device.utilization.spans(rows, copies, offset_ns, time.monotonic_ns())

    def _begin_anew(self, device: Device, offset_ns: int) -> None:
        """Stamps go back with the clock: what comes would look old, what there is may look new."""
        device.process_us = (time.monotonic_ns() - offset_ns) // _US
        device.utilization.restart()
        device.utilization.set_back(self._rows(device, "utilisation", _GPU_SAMPLES))

    def _rows(self, device: Device, what: str, kind: int) -> list[Row]:
        """The driver's own samples. pynvml asks twice, for the number first; this does with one call."""
        if what in device.cannot:
            return []
        count, value_type = ctypes.c_uint(_SAMPLES), ctypes.c_uint()
        last = ctypes.c_ulonglong(device.utilization.last_us)
        code = self._drain(
            device.handle, kind, last, ctypes.byref(value_type), ctypes.byref(count), self._buffer
        )
        if code:
            if code not in (_NOT_FOUND, _INSUFFICIENT_SIZE):
                self._refused(device, what, code, str(self._nvml.NVMLError(code)))
            return []
        number = min(count.value, _SAMPLES)
        values = struct.unpack_from(f"<{2 * number}Q", self._buffer)
        # The value is the low half of a union: percent as unsigned int.
        return [Row(values[i], values[i + 1] & 0xFFFFFFFF) for i in range(0, 2 * number, 2)]

    def _gpm(self, device: Device) -> list[EngineSpan]:
        now = time.monotonic_ns()
        if device.gpm is None or now - device.gpm_ns < _GPM_LEAST_NS:  # NVIDIA: no closer than 100 ms
            return []
        before, after = device.gpm
        if device.instance is None:
            taken = self._ask(device, "GPM", "nvmlGpmSampleGet", device.handle, after)
        else:
            taken = self._ask(device, "GPM", "nvmlGpmMigSampleGet", device.parent, device.instance, after)
        now, last = time.monotonic_ns(), device.gpm_ns
        device.gpm, device.gpm_ns = [after, before], now if taken is not None else 0
        if taken is None or not last:
            return []
        get = self._question
        get.sample1, get.sample2 = before, after
        if self._ask(device, "GPM", "nvmlGpmMetricsGet", get) is None:
            return []
        busy, sent, received = (
            metric.value if metric.nvmlReturn == 0 else None for metric in get.metrics[:3]
        )
        span = gpm_span(device.facts.gpu, last, now, busy, (sent or 0) + (received or 0))
        return [span] if span is not None else []

    @cached_property
    def _question(self) -> Any:
        """To GPM, ten kilobytes of it: asked again and again."""
        get = self._nvml.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics = 1, 3
        for index, metric in enumerate((_GPM_BUSY, _GPM_TX, _GPM_RX)):
            get.metrics[index].metricId = metric
        return get

    def state(self, device: Device) -> GpuSample:
        """Memory, power and clocks; raises :class:`GpuLostError`."""
        memory = self._memory(device)
        power = self._ask(device, "power", "nvmlDeviceGetPowerUsage", device.handle)
        throttle = self._ask(device, "throttling", "nvmlDeviceGetCurrentClocksEventReasons", device.handle)
        used = memory[0] if memory else None
        return GpuSample(device.facts.gpu, time.monotonic_ns(), used, power, throttle)

    def _memory(self, device: Device) -> tuple[int, int] | None:
        """Used and total bytes. The second version counts what the driver keeps for itself apart."""
        info = self._ask(
            device, "memory_v2", "nvmlDeviceGetMemoryInfo", device.handle, self._nvml.nvmlMemory_v2
        )
        if info is None:
            info = self._ask(device, "memory", "nvmlDeviceGetMemoryInfo", device.handle)
        if info is None or info.used > info.total:
            return None
        return int(info.used), int(info.total)

    def processes(self, device: Device) -> list[ProcessRow]:
        """Who holds memory of it; raises :class:`GpuLostError`."""
        if any(other.facts.parent == device.facts.gpu for other in self.devices):
            return []  # its instances say it
        running: list[tuple[int, int | None]] = []
        for what, name in (("processes", "Compute"), ("graphics", "Graphics")):
            rows = self._ask(device, what, f"nvmlDeviceGet{name}RunningProcesses", device.handle)
            running += [(row.pid, row.usedGpuMemory) for row in rows or ()]
        if not running:
            return []
        shares = self._ask(
            device,
            "utilisation by process",
            "nvmlDeviceGetProcessUtilization",
            device.handle,
            device.process_us,
        )
        rows = [UtilizationRow(row.pid, row.timeStamp, row.smUtil) for row in shares or ()]
        now_us = time.time_ns() // _US
        found = process_rows(running, rows, device.facts.memory_total_bytes, device.process_us, now_us)
        good = [row.us for row in rows if row.us <= now_us]
        device.process_us = max([device.process_us, *good])
        return found


_SMALL = {"memory_v2", "GPM", "MIG", "graphics", "copies", "name"}
"""What a card lacks without anything being unknown for it."""
