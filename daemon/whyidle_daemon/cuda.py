"""What is probed in the CUDA driver's library. nvcc links the runtime statically, so only libcuda sees all.

``_ptsz`` and ``_ptds`` are the twins for code compiled with per-thread default streams. Copies alone begin no
engine (they load a model), but keep it busy. ``transfer`` copies return when they are done.
"""

from __future__ import annotations

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "created": ("cuCtxCreate_v2", "cuCtxCreate_v3", "cuCtxCreate_v4"),
    "current": ("cuCtxSetCurrent",),
    "pushed": ("cuCtxPushCurrent_v2",),
    "popped": ("cuCtxPopCurrent_v2",),
    "sync": (
        "cuStreamSynchronize",
        "cuStreamSynchronize_ptsz",
        "cuCtxSynchronize",
        "cuCtxSynchronize_v2",
        "cuEventSynchronize",
    ),
    "transfer": (
        "cuMemcpy",
        "cuMemcpy_ptds",
        "cuMemcpyDtoH_v2",
        "cuMemcpyDtoH_v2_ptds",
        "cuMemcpyHtoD_v2",
        "cuMemcpyHtoD_v2_ptds",
    ),
    "launch": (
        "cuLaunchKernel",
        "cuLaunchKernel_ptsz",
        "cuLaunchKernelEx",
        "cuLaunchKernelEx_ptsz",
        "cuLaunchCooperativeKernel",
        "cuLaunchCooperativeKernel_ptsz",
        "cuGraphLaunch",
        "cuGraphLaunch_ptsz",
    ),
    "copy": (
        "cuMemcpyAsync",
        "cuMemcpyAsync_ptsz",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyDtoHAsync_v2_ptsz",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyHtoDAsync_v2_ptsz",
        "cuMemcpyDtoDAsync_v2",
        "cuMemcpyDtoDAsync_v2_ptsz",
        "cuMemcpyPeerAsync",
        "cuMemcpyPeerAsync_ptsz",
        "cuMemcpy2DAsync_v2",
        "cuMemcpy2DAsync_v2_ptsz",
        "cuMemcpy3DAsync_v2",
        "cuMemcpy3DAsync_v2_ptsz",
        "cuMemsetD8Async",
        "cuMemsetD8Async_ptsz",
        "cuMemsetD32Async",
        "cuMemsetD32Async_ptsz",
    ),
}
SIMULATED = "whyidle_simulated_cuda"  # exported by a library that stands in for the hardware
RESOLUTION_MS = 0.1  # a launch takes some 10 us to reach the GPU, a synchronisation as long to return
