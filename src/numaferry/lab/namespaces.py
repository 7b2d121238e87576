"""The quick kind of lab: one libvirtd per host, each in network, mount, UTS, IPC and PID namespaces of this machine.

::

    this machine ── cable ── mgmt bridge ── mgmt0     10.77.n.11   host alpha: libvirtd, its QEMUs
                             data bridge ┬─ ens4f0    no address   macvtap parent (another name on each host)
                                         └─ labup0 ── labbr0       Linux bridge

What it can't show: all hosts share this machine's CPUs, NUMA nodes and page pools, and control groups are not used (so
it works where version 1 of them is mounted). Pins are real, as affinity masks; but that two hosts' pins exclude each
other, and page counts per host, are matters for the other kind of lab.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking, InvalidInput
from numaferry.lab import namespaces_init
from numaferry.lab.access import NamespaceAccess
from numaferry.lab.commands import run
from numaferry.lab.model import Lab, LabHost
from numaferry.lab.namespaces_files import libvirt_files, private_files
from numaferry.lab.network import DATA_BRIDGE, MANAGEMENT_BRIDGE, make_network
from numaferry.lab.processes import Process, spawn, start_of
from numaferry.lab.resources import make_netns
from numaferry.xdg import cache_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.lab.network import LabNetwork
    from numaferry.lab.site import Site

NOTATION = "this machine"
DEFAULT_NOTATIONS = (NOTATION, NOTATION)
NAMES = ("alpha", "beta", "gamma", "delta")
# differing on purpose: a macvtap's parent must be renamed in a guest that moves
DATA_LINKS = ("ens4f0", "enp7s0", "eno3", "enp65s0f1")
HOST_BRIDGE = "labbr0"
SHARE = Path("/run/numaferry/share")

READY_TIMEOUT_S = 60
TOOLS = {
    "ip": "iproute2",
    "mount": "mount",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check(notations: Sequence[str]) -> None:
    """Raise InvalidInput for hosts that this kind can't make, EnvironmentLacking when the machine can't carry it."""
    if not 2 <= len(notations) <= len(NAMES) or set(notations) != {NOTATION}:
        raise InvalidInput(
            f"a namespaces lab has 2 to {len(NAMES)} hosts, each of them {NOTATION!r}; given: {' | '.join(notations)}",
            hint="use the hosts kind for topologies",
        )
    if os.geteuid() != 0:
        raise EnvironmentLacking("a namespaces lab needs root: it makes namespaces and network links", hint="use sudo")
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=SYSTEM_PATH)})
    if missing:
        raise EnvironmentLacking(f"not installed: {', '.join(missing)}", hint="run tools/setup as root")


def build(site: Site, notations: Sequence[str]) -> Lab:
    """Make the hosts and return the lab once each libvirtd told its capabilities.

    Raises EnvironmentLacking, quoting the tool that refused.
    """
    network = make_network(site.journal, site.lab_id)
    share = site.directory / "share"
    share.mkdir()
    starting = [_start(site, network, index) for index in range(len(notations))]
    hosts = tuple(_host(site, network, index, outside) for index, outside in enumerate(starting))
    site.say(f"{len(hosts)} libvirtds started; waiting until they answer")
    # at once, since the first question makes a libvirtd that never met this QEMU probe it for a second or two
    with ThreadPoolExecutor(max_workers=len(hosts)) as waiting:
        for answer in [waiting.submit(_wait_until_ready, site, host) for host in hosts]:
            answer.result()
    _keep_capabilities(site)
    return Lab(
        kind="namespaces",
        name=site.name,
        directory=site.directory.parent,
        lab_id=site.lab_id,
        netns=network.netns,
        outer_ip=network.outer_ip,
        share=share,
        accelerator="tcg",
        hosts=hosts,
    )


def _start(site: Site, network: LabNetwork, index: int) -> Process:
    """Start a host: its network, its files, its first process; return the process outside that waits for it."""
    name = NAMES[index]
    home = site.directory / name
    home.mkdir()
    netns = make_netns(site.journal, f"numaferry-{site.lab_id}-{name}")
    _make_links(network, netns, index)
    names = {network.host_ip(other): NAMES[other] for other in range(len(NAMES))}
    libvirt_files(home / "libvirt", address=network.host_ip(index), host_uuid=str(uuid.uuid4()))
    private_files(home, name, names)
    _seed_capabilities(home)
    for folder in ("lib/libvirt/qemu", "log/libvirt/qemu", "cache/libvirt/qemu/capabilities", "tmp"):
        (home / "var" / folder).mkdir(parents=True, exist_ok=True)
    config = {
        "hostname": name,
        "share": [str(site.directory / "share"), str(SHARE)],
        "binds": [
            [str(home / "libvirt"), "/etc/libvirt"],
            *([str(home / file), f"/etc/{file}"] for file in ("passwd", "group", "hosts")),
            [str(home / "var"), "/var"],
        ],
        "daemon": ["libvirtd", "--listen"],
    }
    script = [sys.executable, "-I", "-S", str(Path(namespaces_init.__file__)), json.dumps(config)]
    unshare = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    return spawn(
        site.journal,
        [*unshare, "--", *script],
        log=home / "first.log",
        netns=netns,
        environment={"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": "/root"},
    )


def _make_links(network: LabNetwork, netns: str, index: int) -> None:
    """Plug the host into the lab's bridges by ports mN, dN and bN (N from 1); the links go with the namespaces."""
    number = index + 1
    for link, port, bridge in (
        ("mgmt0", f"m{number}", MANAGEMENT_BRIDGE),
        (DATA_LINKS[index], f"d{number}", DATA_BRIDGE),
        ("labup0", f"b{number}", DATA_BRIDGE),
    ):
        run(["ip", "-n", network.netns, "link", "add", port, "type", "veth", "peer", "name", link, "netns", netns])
        run(["ip", "-n", network.netns, "link", "set", port, "master", bridge, "up"])
        run(["ip", "-n", netns, "link", "set", link, "up"])
    run(["ip", "-n", netns, "addr", "add", f"{network.host_ip(index)}/24", "dev", "mgmt0"])
    run(["ip", "-n", netns, "link", "add", HOST_BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
    run(["ip", "-n", netns, "link", "set", HOST_BRIDGE, "up"])
    run(["ip", "-n", netns, "link", "set", "labup0", "master", HOST_BRIDGE])


def _host(site: Site, network: LabNetwork, index: int, outside: Process) -> LabHost:
    ip = network.host_ip(index)
    first = _first_process(outside, NAMES[index], site.directory / NAMES[index] / "first.log")
    return LabHost(
        name=NAMES[index],
        uri=f"qemu+tcp://{ip}/system",
        ip=ip,
        data_links=(DATA_LINKS[index],),
        bridges=(HOST_BRIDGE,),
        share=SHARE,
        notation=NOTATION,
        process=first,
        access=NamespaceAccess(first),
    )


def _first_process(outside: Process, name: str, log: Path, timeout_s: float = 10) -> Process:
    """Return the only child of `unshare`: process 1 of the namespaces, by its pid out here.

    Raises EnvironmentLacking, quoting the log, when it ended at once.
    """
    deadline = time.monotonic() + timeout_s
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    while time.monotonic() < deadline and outside.alive:
        pids = children.read_text(encoding="ascii").split()
        start = start_of(int(pids[0])) if pids else None
        if start is not None:
            return Process(pid=int(pids[0]), start=start)
        time.sleep(0.005)
    said = (log.read_text(encoding="utf-8", errors="replace").strip() or "it said nothing").splitlines()[-1]
    raise EnvironmentLacking(f"host {name} ended at once: {said}", hint="see its logs")


def _wait_until_ready(site: Site, host: LabHost) -> None:
    """Wait until libvirt tells its capabilities, which proves more than an open port: QEMU was found and probed."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            run(["virsh", "-q", "-c", host.uri, "capabilities"], timeout_s=READY_TIMEOUT_S)
        except EnvironmentLacking as error:
            if time.monotonic() > deadline or not host.alive:
                raise EnvironmentLacking(
                    f"libvirtd of {host.name} does not answer: {error}", hint="see its first.log and libvirtd.log"
                ) from error
            time.sleep(0.05)
        else:
            site.say(f"{host.name} answers at {host.uri}")
            return


def _cache() -> Path:
    return cache_directory() / "namespaces" / "capabilities"


def _of_host(home: Path) -> Path:
    return home / "var/cache/libvirt/qemu/capabilities"


def _seed_capabilities(home: Path) -> None:
    """Give the host what an earlier one learned of QEMU; libvirt itself throws away what no longer holds."""
    _of_host(home).mkdir(parents=True)
    for known in _cache().glob("*.xml"):
        shutil.copy2(known, _of_host(home))


def _keep_capabilities(site: Site) -> None:
    """Keep what the first host learned, for the next lab; each file appears whole or not at all."""
    _cache().mkdir(parents=True, exist_ok=True)
    for learned in _of_host(site.directory / NAMES[0]).glob("*.xml"):
        draft = _cache() / f".{learned.name}.{os.getpid()}"
        shutil.copy2(learned, draft)
        draft.replace(_cache() / learned.name)
