"""Domain XML for lab guests, in libvirt's words (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen
from lxml import etree

from numaferry.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numaferry.lab.guests.image import GuestImage

HUGEPAGE_KIB = 2048
SPARE_PORTS = 4

_NO_PINS: Mapping[int, str] = {}


@frozen
class GuestCell:
    """A NUMA cell of the guest: its vCPUs in libvirt's list form ("0-1"), its memory, and its host cells.

    `nodeset` None leaves the cell's memory unbound.
    """

    vcpus: str
    memory_mib: int
    nodeset: str | None = None


@frozen
class MacvtapNic:
    """A macvtap on the host's link `dev`, mode bridge. `model` is QEMU's: virtio, e1000 or e1000e."""

    dev: str
    mac: str
    model: str = "virtio"


@frozen
class BridgeNic:
    """A tap on the host's Linux bridge `bridge`."""

    bridge: str
    mac: str
    model: str = "virtio"


@frozen(kw_only=True)
class GuestSpec:
    """A lab guest to define or create.

    `cells` has at least one cell; `serial` is a file as the host sees it. `vcpu_pins` and `iothread_pins` (iothreads
    count from 1) map to host CPU lists, `emulator_pin` is one; `cpuset` is where unpinned vCPUs float. `memory_nodeset`
    is `<numatune><memory>`'s (all cells' nodesets when only those are given). `hugepages` means 2 MiB pages.
    `dirty_mib` is written per tick (a tenth of a second of guest time); `address` (CIDR) is for linux only.
    """

    name: str
    image: GuestImage
    serial: Path
    domain_type: Literal["qemu", "kvm"] = "qemu"
    vcpus: int = 1
    cells: tuple[GuestCell, ...] = (GuestCell(vcpus="0", memory_mib=32),)
    cpuset: str | None = None
    vcpu_pins: Mapping[int, str] = field(default=_NO_PINS)
    emulator_pin: str | None = None
    iothreads: int = 0
    iothread_pins: Mapping[int, str] = field(default=_NO_PINS)
    memory_nodeset: str | None = None
    hugepages: bool = False
    dirty_mib: int = 0
    nics: tuple[MacvtapNic | BridgeNic, ...] = ()
    address: str | None = None
    command_line: str = ""
    uuid: str | None = None

    @property
    def memory_mib(self) -> int:
        """The guest's memory: the sum over its cells."""
        return sum(cell.memory_mib for cell in self.cells)


def domain_xml(spec: GuestSpec) -> str:
    """Return the domain XML of `spec`; good for createXML as well as defineXML.

    Raises InvalidInput for a guest without cells, and for pages that do not divide a cell's memory.
    """
    if not spec.cells:
        raise InvalidInput(f"guest {spec.name} has no cell", hint="give it one GuestCell at least")
    odd = [cell.memory_mib for cell in spec.cells if cell.memory_mib * 1024 % HUGEPAGE_KIB]
    if spec.hugepages and odd:
        raise InvalidInput(f"{odd[0]} MiB of a cell of {spec.name} are no whole 2 MiB pages", hint="use even MiB")
    root = element(
        "domain",
        element("name", spec.name),
        *([element("uuid", spec.uuid)] if spec.uuid else []),
        element("memory", str(spec.memory_mib), unit="MiB"),
        *([_hugepages()] if spec.hugepages else []),
        element("vcpu", str(spec.vcpus), placement="static", cpuset=spec.cpuset),
        *([element("iothreads", str(spec.iothreads))] if spec.iothreads else []),
        *_cputune(spec),
        *_numatune(spec),
        _os(spec),
        element("features", element("acpi"), element("apic")),
        _cpu(spec),
        _devices(spec),
        type=spec.domain_type,
    )
    return etree.tostring(root, pretty_print=True, encoding="unicode")


def element(tag: str, *content: etree._Element | str, **attributes: str | None) -> etree._Element:
    """Return an element with its children and text; attributes that are None are left out."""
    made = etree.Element(tag, {name: value for name, value in attributes.items() if value is not None})
    for part in content:
        if isinstance(part, str):
            made.text = part
        else:
            made.append(part)
    return made


def _hugepages() -> etree._Element:
    return element("memoryBacking", element("hugepages", element("page", size=str(HUGEPAGE_KIB), unit="KiB")))


def _cputune(spec: GuestSpec) -> list[etree._Element]:
    pins = [element("vcpupin", vcpu=str(vcpu), cpuset=cpus) for vcpu, cpus in sorted(spec.vcpu_pins.items())]
    if spec.emulator_pin:
        pins.append(element("emulatorpin", cpuset=spec.emulator_pin))
    pins += [
        element("iothreadpin", iothread=str(number), cpuset=cpus) for number, cpus in sorted(spec.iothread_pins.items())
    ]
    return [element("cputune", *pins)] if pins else []


def _numatune(spec: GuestSpec) -> list[etree._Element]:
    bound = [(index, cell.nodeset) for index, cell in enumerate(spec.cells) if cell.nodeset]
    nodeset = spec.memory_nodeset or ",".join(dict.fromkeys(nodes for _, nodes in bound))
    if not nodeset:
        return []
    # libvirt wants <memory> with <memnode>, though each memnode overrides it for its cell
    nodes = [element("memnode", cellid=str(index), mode="strict", nodeset=nodes) for index, nodes in bound]
    return [element("numatune", element("memory", mode="strict", nodeset=nodeset), *nodes)]


def _os(spec: GuestSpec) -> etree._Element:
    words = [f"dirty={spec.dirty_mib}"]
    if spec.image.kind == "linux":
        words = ["console=ttyS0", "quiet", "loglevel=2", "panic=-1", "mitigations=off", "nokaslr", *words]
        words += [f"address={spec.address}"] if spec.address else []
    parts = [element("type", "hvm", arch="x86_64", machine="q35"), element("kernel", str(spec.image.kernel))]
    if spec.image.initrd:
        parts.append(element("initrd", str(spec.image.initrd)))
    return element("os", *parts, element("cmdline", " ".join([*words, *spec.command_line.split()])))


def _cpu(spec: GuestSpec) -> etree._Element:
    # a model that every accelerator has, so that a lab of mixed ones can still migrate
    cells = [
        element("cell", id=str(index), cpus=cell.vcpus, memory=str(cell.memory_mib), unit="MiB")
        for index, cell in enumerate(spec.cells)
    ]
    model = element("model", "qemu64")
    return element("cpu", model, element("numa", *cells), mode="custom", match="exact", check="none")


def _devices(spec: GuestSpec) -> etree._Element:
    # a device can only be plugged into a port that was there when the guest started
    ports = [element("controller", type="pci", model="pcie-root-port") for _ in range(SPARE_PORTS)]
    return element(
        "devices",
        element("emulator", "/usr/bin/qemu-system-x86_64"),
        element("controller", type="usb", model="none"),
        *([element("controller", type="pci", index="0", model="pcie-root"), *ports] if _plugs(spec) else []),
        *(_interface(nic) for nic in spec.nics),
        element(
            "serial", element("source", path=str(spec.serial), append="on"), element("target", port="0"), type="file"
        ),
        element("memballoon", model="none"),
    )


def _plugs(spec: GuestSpec) -> bool:
    return spec.image.kind == "linux"


def _interface(nic: MacvtapNic | BridgeNic) -> etree._Element:
    if isinstance(nic, MacvtapNic):
        kind, source = "direct", element("source", dev=nic.dev, mode="bridge")
    else:
        kind, source = "bridge", element("source", bridge=nic.bridge)
    return element("interface", element("mac", address=nic.mac), source, element("model", type=nic.model), type=kind)
