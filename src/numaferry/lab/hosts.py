"""The lab of kind `hosts`: hypervisor hosts as QEMU machines with a real NUMA topology, libvirtd in each.

Their root file system is this machine's own, seen read-only over 9p with a RAM disk above, so nothing is built and
nothing that happens inside reaches the machine. They share one folder, /share, and two networks (see `network`).
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import EnvironmentLacking, HostUnreachable, InvalidInput
from numaferry.lab import accelerator, capabilities, hostimage, kernel, machine, network, notation
from numaferry.lab.access import SerialAccess
from numaferry.lab.boot import Boot, wait_until_ready
from numaferry.lab.commands import run
from numaferry.lab.model import Lab, LabHost
from numaferry.lab.processes import Process, kill, spawn
from numaferry.model.notation import EXAMPLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numaferry.lab.notation import HostSpec
    from numaferry.lab.site import Site

DEFAULT_NOTATIONS = (EXAMPLE, EXAMPLE)
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
# the same network by another name on every host, as on real ones, where the slot decides
DATA_LINKS = ("ens4f0", "enp7s0", "ens5f1", "enp9s0", "eno3", "enp65s0", "ens1f0", "enp129s0")
BRIDGE = "labbr0"
SHARE = Path("/share")

# what a QEMU machine takes beyond its guest's memory: translated code, page tables, 9p
OVERHEAD_MIB = 700
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
INSTALL = "run tools/setup as root; LAB=namespaces needs less"


@frozen
class _Place:
    """One host as it is being built."""

    index: int
    name: str
    spec: HostSpec
    ip: str
    directory: Path

    @property
    def uri(self) -> str:
        return f"qemu+tcp://{self.ip}/system"

    def mac(self, network_number: int) -> str:
        # locally administered, in QEMU's own range; bridges are the lab's own, so no other lab sees them
        return f"52:54:00:77:{network_number:02x}:{self.index + 1:02x}"


def busybox() -> Path:
    """Return the static busybox. Raises EnvironmentLacking without one: a host's first program has no libraries."""
    for path in map(Path, BUSYBOX):
        if path.exists() and b"ld-linux" not in path.read_bytes()[:4096]:
            return path
    raise EnvironmentLacking("no statically linked busybox", hint="apt-get install busybox-static")


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0


def check(notations: Sequence[str]) -> None:
    """Raise InvalidInput or EnvironmentLacking when these hosts can't run on this machine; makes nothing."""
    specs = [notation.parse(text) for text in notations]
    if not 2 <= len(specs) <= len(NAMES):
        raise InvalidInput(f"{len(specs)} hosts asked for; 2 to {len(NAMES)} can be made", hint="one --host per host")
    if os.geteuid() != 0:
        raise EnvironmentLacking(
            "the lab makes network namespaces and taps, which only root may", hint="run it as root"
        )
    for tool in (machine.EMULATOR, "libvirtd", "virsh", "ip", "nsenter"):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise EnvironmentLacking(f"{tool} is not installed", hint=INSTALL)
    if "tcg" not in run([machine.EMULATOR, "-accel", "help"]) and not Path("/dev/kvm").exists():
        raise EnvironmentLacking("there is no /dev/kvm, and this QEMU emulates nothing (no TCG)", hint=INSTALL)
    if not Path("/dev/net/tun").exists():
        raise EnvironmentLacking("/dev/net/tun is missing", hint="modprobe tun")
    busybox()
    needed_mib = sum(spec.memory_mib + OVERHEAD_MIB for spec in specs)
    if (available_mib := _available_mib()) < needed_mib:
        raise EnvironmentLacking(
            f"these {len(specs)} hosts need {needed_mib} MiB of memory, {available_mib} MiB are available",
            hint="ask for less memory per cell, or use LAB=namespaces",
        )
    kernel.check()


@frozen
class _Ground:
    """What all hosts of a lab stand on."""

    site: Site
    kernel: kernel.Kernel
    accelerator: str
    network: network.LabNetwork
    share: Path
    base_archive: bytes
    capabilities: tuple[Path, ...]


def _settings(place: _Place) -> dict[str, str]:
    return {
        "probe": "no",
        "name": place.name,
        "ip": place.ip,
        "management_mac": place.mac(0),
        "data_mac": place.mac(1),
        "data_link": DATA_LINKS[place.index],
        "bridge": BRIDGE,
        "pages": " ".join(map(str, place.spec.pages_2m)),
    }


def _ground(site: Site) -> _Ground:
    boot_kernel = kernel.get(site.say)
    choice = accelerator.choose(boot_kernel, busybox(), site.say)
    site.say(f"hosts run on {choice.accelerator.upper()}: {choice.reason}")
    share = site.directory / "share"
    share.mkdir()
    return _Ground(
        site=site,
        kernel=boot_kernel,
        accelerator=choice.accelerator,
        network=network.make_network(site.journal, site.lab_id),
        share=share,
        base_archive=hostimage.base_archive(boot_kernel, busybox()),
        capabilities=capabilities.kept(boot_kernel, choice.accelerator),
    )


def build(site: Site, notations: Sequence[str]) -> Lab:
    """Boot the hosts side by side and return the lab when libvirt answers in each of them.

    Raises EnvironmentLacking or HostUnreachable when one doesn't come up; the caller tears down.
    """
    ground = _ground(site)
    places = [
        _Place(
            index=index,
            name=NAMES[index],
            spec=notation.parse(text),
            ip=ground.network.host_ip(index),
            directory=site.directory / NAMES[index],
        )
        for index, text in enumerate(notations)
    ]
    first_time = "" if ground.capabilities else "; libvirt has to probe QEMU first, this once"
    site.say(f"booting {', '.join(place.name for place in places)}{first_time}")
    addresses = {"outer": ground.network.outer_ip, **{place.name: place.ip for place in places}}
    boots = [_start(ground, place, addresses) for place in places]
    wait_until_ready(site, boots)
    lab = Lab(
        kind="hosts",
        name=site.name,
        directory=site.directory.parent,
        lab_id=site.lab_id,
        netns=ground.network.netns,
        outer_ip=ground.network.outer_ip,
        share=ground.share,
        accelerator=ground.accelerator,
        hosts=tuple(_host(place, boot.process) for place, boot in zip(places, boots, strict=True)),
    )
    _check_channels(lab)
    if not ground.capabilities:
        _keep_capabilities(lab, ground.kernel)
    return lab


def _start(ground: _Ground, place: _Place, addresses: Mapping[str, str]) -> Boot:
    # the same for the same place, so that a host that is made anew is the host it was
    host_uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"numaferry-lab:{place.directory}"))
    place.directory.mkdir()
    archive = place.directory / "initramfs.cpio"
    own = hostimage.host_archive(
        _settings(place), uuid=host_uuid, addresses=addresses, capabilities=ground.capabilities
    )
    archive.write_bytes(ground.base_archive + own)
    number = place.index + 1
    words = machine.command_line(
        machine.Machine(
            name=place.name,
            uuid=host_uuid,
            spec=place.spec,
            accelerator=ground.accelerator,
            kernel=ground.kernel.quick_image,
            initramfs=archive,
            share=ground.share,
            management_tap=network.make_tap(ground.network, f"m{number}", network.MANAGEMENT_BRIDGE),
            management_mac=place.mac(0),
            data_tap=network.make_tap(ground.network, f"d{number}", network.DATA_BRIDGE),
            data_mac=place.mac(1),
        )
    )
    log = place.directory / machine.QEMU_LOG

    def start() -> Process:
        (place.directory / machine.CONSOLE_LOG).unlink(missing_ok=True)
        process = spawn(ground.site.journal, words, log=log, netns=ground.network.netns, directory=place.directory)
        ground.site.say(f"{place.name}: started, process {process.pid}")
        return process

    def again(hung: Process) -> Process:
        kill(hung)
        return start()

    return Boot(name=place.name, uri=place.uri, directory=place.directory, process=start(), again=again)


def _host(place: _Place, process: Process) -> LabHost:
    return LabHost(
        name=place.name,
        uri=place.uri,
        ip=place.ip,
        data_links=(DATA_LINKS[place.index],),
        bridges=(BRIDGE,),
        share=SHARE,
        notation=place.spec.notation,
        process=process,
        access=SerialAccess(socket=place.directory / machine.EXEC_SOCKET),
    )


def _check_channels(lab: Lab) -> None:
    for host in lab.hosts:
        if isinstance(host.access, SerialAccess):
            host.access.socket.chmod(0o600)
        if host.exec("echo ready").output != "ready\n":
            raise HostUnreachable(f"the exec channel of {host.name} gives wrong answers")


def _keep_capabilities(lab: Lab, boot_kernel: kernel.Kernel) -> None:
    """Take libvirt's answers out of the first host, by way of the common folder."""
    host, folder = lab.hosts[0], ".capabilities"
    host.exec(f"mkdir {SHARE}/{folder} && cp /var/cache/libvirt/qemu/capabilities/*.xml {SHARE}/{folder}/")
    found = sorted((lab.share / folder).glob("*.xml"))
    if found:
        capabilities.keep(boot_kernel, lab.accelerator, found)
    shutil.rmtree(lab.share / folder, ignore_errors=True)
