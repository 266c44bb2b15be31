"""Where a process runs, read from its cgroup path: container, pod and systemd unit. Pure.

A path is a chain of names, each made by somebody: systemd, a container runtime, the kubelet. The innermost
container counts, as that is where the process is. A runtime whose names are not known gives no container,
and never an error: anybody may name a cgroup as they like, within what a user may create.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ID: Final = r"([0-9a-f]{64})"
# What each runtime calls the scope (systemd driver) or the directory (cgroupfs driver) of a container.
_CONTAINERS: Final = (
    ("docker", re.compile(rf"^docker-{_ID}\.scope$")),
    ("containerd", re.compile(rf"^cri-containerd-{_ID}\.scope$")),
    ("cri-o", re.compile(rf"^crio-{_ID}(?:\.scope)?$")),
    ("podman", re.compile(rf"^libpod-(?:payload-)?{_ID}(?:\.scope)?$")),
    ("containerd", re.compile(rf"^nerdctl-{_ID}\.scope$")),
    ("lxc", re.compile(r"^lxc\.payload\.([A-Za-z0-9_.-]{1,64})$")),
    # Virtual machines of libvirt are registered with systemd-machined as well: no process of theirs is seen.
    ("nspawn", re.compile(r"^machine-(?!qemu\\x2d)([A-Za-z0-9_.\\-]{1,64})\.scope$")),
)
_BARE_ID: Final = re.compile(rf"^{_ID}$")
_PARENTS: Final = {"docker": "docker", "lxc": "lxc", "libpod_parent": "podman"}
_UID: Final = r"([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
# Kubernetes', below whatever cgroup the kubelet was given; its static pods have a UID without dashes.
_KUBE_POD: Final = re.compile(rf"^(?:(?:[A-Za-z0-9_.]+-)*kubepods(?:-[a-z]+)*-)?pod{_UID}(?:\.slice)?$")
_PODMAN_POD: Final = re.compile(rf"^(?:machine|user)-libpod_pod_{_ID}\.slice$")
_UNIT: Final = re.compile(r"^[A-Za-z0-9:_.\\@-]{1,250}\.(?:service|scope)$")
_CRI_V1: Final = re.compile(rf"^([^:]*):cri-containerd:{_ID}$")  # the cgroupfs driver of containerd
_MAX_PATH: Final = 4096
_MAX_DEPTH: Final = 64


class Container(NamedTuple):
    """``runtime`` as its project writes itself; ``id`` is 64 hex digits, or a name (lxc, nspawn)."""

    runtime: str
    id: str


class Placement(NamedTuple):
    """Each ``None`` where there is none, or none that is known. ``pod`` is the pod's UID (Podman: its ID)."""

    container: Container | None
    pod: str | None
    unit: str | None


NOWHERE: Final = Placement(None, None, None)


def placement_of(cgroup: str | None) -> Placement:
    """What the path of a process in cgroup v2, or in a hierarchy of v1, says."""
    if not cgroup:
        return NOWHERE
    container: Container | None = None
    pod = unit = None
    previous = ""
    for name in cgroup[:_MAX_PATH].split("/")[:_MAX_DEPTH]:
        if not name or name == "..":  # above the root of our cgroup namespace
            continue
        found = _container(name, previous, pod)
        if found is not None:
            container = found
        pod = _pod(name) or pod
        if _UNIT.match(name) and found is None:
            unit = name
        previous = name
    return Placement(container, pod, unit)


def _pod(name: str) -> str | None:
    if match := _CRI_V1.match(name):
        name = match[1]
    match = _KUBE_POD.match(name) or _PODMAN_POD.match(name)
    return match[1].replace("_", "-") if match else None


def _container(name: str, previous: str, pod: str | None) -> Container | None:
    for runtime, pattern in _CONTAINERS:
        if match := pattern.match(name):
            return Container(runtime, match[1])
    if match := _CRI_V1.match(name):
        return Container("containerd", match[2])
    if match := _BARE_ID.match(name):
        if previous in _PARENTS:
            return Container(_PARENTS[previous], match[1])
        if pod is not None:  # the kubelet's cgroupfs driver names the container by its bare number
            return Container("kubernetes", match[1])
    return None
