"""Containers, pods and units are read off cgroup paths as each runtime writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.discovery.placement import NOWHERE, Container, Placement, placement_of

ID = "0123456789abcdef" * 4
UID = "3f6a1c2e-9a3b-4c5d-8e7f-001122334455"
SLICE = UID.replace("-", "_")

KUBE = "/kubepods.slice/kubepods"
PATHS = {
    # runtime, driver and hierarchy: what the path of a process is
    f"/system.slice/docker-{ID}.scope": Placement(Container("docker", ID), None, None),
    f"/docker/{ID}": Placement(Container("docker", ID), None, None),
    f"/docker/{ID}/init": Placement(Container("docker", ID), None, None),
    f"/machine.slice/libpod-{ID}.scope/container": Placement(Container("podman", ID), None, None),
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope":
        Placement(Container("podman", ID), None, "user@1000.service"),
    f"/libpod_parent/libpod-{ID}": Placement(Container("podman", ID), None, None),
    f"{KUBE}-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope":
        Placement(Container("containerd", ID), UID, None),
    f"{KUBE}-pod{SLICE}.slice/crio-{ID}.scope": Placement(Container("cri-o", ID), UID, None),
    f"/kubepods/besteffort/pod{UID}/{ID}": Placement(Container("kubernetes", ID), UID, None),
    f"{KUBE}-pod{SLICE}.slice/docker-{ID}.scope": Placement(Container("docker", ID), UID, None),
    f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{ID}":
        Placement(Container("containerd", ID), UID, "containerd.service"),
    f"/system.slice/agent.service/libpod-payload-{ID}":  # Quadlet's default, --cgroups=split
        Placement(Container("podman", ID), None, "agent.service"),
    f"/machine.slice/machine-libpod_pod_{ID[::-1]}.slice/libpod-{ID}.scope/container":
        Placement(Container("podman", ID), ID[::-1], None),
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope":
        Placement(Container("containerd", ID), UID, None),  # kind
    f"{KUBE}-burstable.slice/kubepods-burstable-pod{ID[:32]}.slice/cri-containerd-{ID}.scope":
        Placement(Container("containerd", ID), ID[:32], None),  # a static pod
    f"/kubepods/burstable/pod{ID[:32]}/{ID}": Placement(Container("kubernetes", ID), ID[:32], None),
    "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt":
        Placement(None, None, "machine-qemu\\x2d1\\x2dvm.scope"),
    f"/docker/{ID}/docker/{ID[::-1]}": Placement(Container("docker", ID[::-1]), None, None),
    "/lxc.payload.web/init.scope": Placement(Container("lxc", "web"), None, "init.scope"),
    "/machine.slice/machine-test.scope/payload": Placement(Container("nspawn", "test"), None, None),
    "/system.slice/ollama.service": Placement(None, None, "ollama.service"),
    "/system.slice/system-vllm.slice/vllm@7b.service": Placement(None, None, "vllm@7b.service"),
    "/user.slice/user-0.slice/session-3.scope": Placement(None, None, "session-3.scope"),
    f"/newruntime-{ID}": NOWHERE,
    f"/garden/{ID}": NOWHERE,
    "/../..": NOWHERE,
    "/": NOWHERE,
    "": NOWHERE,
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_known_paths(path: str) -> None:
    """What is known is named; an unknown runtime is no container, and no error."""
    assert placement_of(path) == PATHS[path]


def test_no_cgroup() -> None:
    """A process that is gone, or a kernel without cgroups, is nowhere."""
    assert placement_of(None) == NOWHERE


@given(st.text(max_size=300) | st.lists(st.sampled_from([*PATHS, ID, UID, "pod", ":"])).map("/".join))
def test_any_path_is_placed(path: str) -> None:
    """Whatever a cgroup is called, there is an answer with printable names."""
    where = placement_of(path)
    for text in (where.container and where.container.id, where.pod, where.unit):
        assert text is None or text.isprintable()
