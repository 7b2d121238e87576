"""The command line of a lab host's QEMU machine: pure, from a topology and where things are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numaferry.lab.notation import HostSpec

EMULATOR = "qemu-system-x86_64"
EXEC_SOCKET = "exec.sock"
CONSOLE_LOG = "console.log"
QEMU_LOG = "qemu.log"

# The emulated CPU must have SMT (topoext, which QEMU's emulation refuses unless forced) and nested virtualization
# (SVM, so an AMD one); family 23, because Linux divides by zero on an older family with topoext.
# Under KVM topoext is what AMD guests see threads by; Intel CPUs leave it out with a warning (never tried on either).
CPU = {"tcg": "max,family=23,model=1,topoext=on,x-force-features=on", "kvm": "host,topoext=on"}
ACCELERATOR = {"tcg": "tcg,thread=multi,tb-size=512", "kvm": "kvm"}

# loglevel 4: a serial console is slow; expedited RCU and no watchdogs: an emulated CPU waits long for grace periods.
# tsc=reliable: else Linux calls the emulated TSC unstable and reads the HPET, every read a trap under QEMU's one lock:
# twice the boot time, and stalled CPUs as soon as nested guests run.
KERNEL_LINE = (
    "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr audit=0 apparmor=0 selinux=0 nowatchdog "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on tsc=reliable"
)


@frozen
class Machine:
    """What a host's QEMU needs to know. Paths are this machine's; the process runs in the host's own directory."""

    name: str
    uuid: str
    spec: HostSpec
    accelerator: str
    kernel: Path
    initramfs: Path
    share: Path
    management_tap: str
    management_mac: str
    data_tap: str
    data_mac: str


def _topology(spec: HostSpec) -> Iterator[str]:
    cells = spec.topology.cells
    shape = f"sockets={len(cells)},cores={spec.cores_per_cell},threads={spec.threads_per_core}"
    yield from ("-smp", f"{sum(len(cell.cpus) for cell in cells)},{shape}", "-m", f"{spec.memory_mib}M")
    for cell in cells:
        yield from ("-object", f"memory-backend-ram,id=cell{cell.id},size={cell.memory_kib}K")
        cpus = "".join(f",cpus={cpu}" for cpu in cell.cpus)
        yield from ("-numa", f"node,nodeid={cell.id}{cpus},memdev=cell{cell.id}")
    for cell in cells:
        for other, distance in cell.distances:
            yield from ("-numa", f"dist,src={cell.id},dst={other},val={distance}")


def _folder(tag: str, path: Path, options: str) -> Iterator[str]:
    yield from ("-fsdev", f"local,id={tag},path={str(path).replace(',', ',,')},security_model=none{options}")
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _nic(name: str, tap: str, mac: str) -> Iterator[str]:
    yield from ("-netdev", f"tap,id={name},ifname={tap},script=no,downscript=no")
    yield from ("-device", f"virtio-net-pci,netdev={name},mac={mac}")


def command_line(machine: Machine, root: str = "/") -> tuple[str, ...]:
    """Return the words that start a lab host; `root` is the file system that the host sees copy-on-write."""
    return (
        EMULATOR,
        *("-name", f"numaferry-{machine.name}", "-uuid", machine.uuid),
        *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35"),
        *("-accel", ACCELERATOR[machine.accelerator], "-cpu", CPU[machine.accelerator]),
        *_topology(machine.spec),
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", KERNEL_LINE),
        *("-fsdev", f"local,id=root,path={root},security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *_folder("share", machine.share, ""),
        *_nic("management", machine.management_tap, machine.management_mac),
        *_nic("data", machine.data_tap, machine.data_mac),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=exec,path={EXEC_SOCKET},server=on,wait=off"),
        *("-device", "virtserialport,chardev=exec,name=numaferry.exec"),
        *("-device", "virtio-rng-pci", "-serial", f"file:{CONSOLE_LOG}"),
    )
