"""A domain XML as the simulated host reads it: pure, and no more than what starting and moving a guest needs.

The elements are libvirt's (https://libvirt.org/formatdomain.html); which of them may differ on the destination is its
ABI stability check (libvirt src/conf/domain_conf.c, virDomainDefCheckABIStability).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from lxml import etree

from numaferry.errors import HypervisorError, InvalidInput
from numaferry.model import BASE_PAGE_SIZE_KIB, EMPTY, CpuSet
from numaferry.request.xml import cpu_list, parse_xml, size_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_HUGE_PAGE_KIB = 2048

_SECRETS = ("passwd", "password")


@attrs.frozen(slots=True)
class GuestMemory:
    """One guest cell's memory: how much, in which pages, on which host cells (None: wherever)."""

    cell: int
    size_kib: int
    page_size_kib: int
    nodes: CpuSet | None


@attrs.frozen(slots=True)
class GuestConfig:
    """What a domain XML asks of the host that starts it."""

    uuid: str
    name: str
    vcpus: int
    memory: tuple[GuestMemory, ...]
    #: vCPU → mask that is asked for; a vCPU without one is not in it.
    vcpu_pins: tuple[tuple[int, CpuSet], ...]
    emulator_pin: CpuSet | None
    iothread_pins: tuple[tuple[int, CpuSet | None], ...]
    #: Host cells of ``<numatune>`` altogether.
    nodes: CpuSet
    #: (interface type, bridge or device) of each NIC.
    links: tuple[tuple[str, str], ...]
    #: What must be the same on the destination: words of libvirt's refusal, and its value.
    abi: tuple[tuple[str, str, str], ...]

    @property
    def memory_kib(self) -> int:
        """The guest's whole memory."""
        return sum(cell.size_kib for cell in self.memory)


def read_config(xml: str) -> GuestConfig:
    """Read a domain XML. Raises HypervisorError, with libvirt's words, for one that is none."""
    try:
        root = parse_xml(xml)
    except InvalidInput as error:
        raise HypervisorError(f"(domain_definition): {error}", hint="this is no XML") from error
    name = root.findtext("name")
    if not name:
        raise HypervisorError("XML error: missing domain name", hint="a domain XML is needed")
    memory = _memory(root)
    return GuestConfig(
        uuid=root.findtext("uuid") or "",
        name=name,
        vcpus=int(root.findtext("vcpu") or 1),
        memory=memory,
        vcpu_pins=_vcpu_pins(root),
        emulator_pin=_emulator_pin(root),
        iothread_pins=_iothread_pins(root),
        nodes=_tuned_nodes(root, memory),
        links=tuple(
            (nic.get("type", ""), source.get("bridge") or source.get("dev") or source.get("network") or "")
            for nic in root.iterfind("devices/interface")
            if (source := nic.find("source")) is not None
        ),
        abi=_abi(root, memory),
    )


def _memory(root: etree._Element) -> tuple[GuestMemory, ...]:
    tune = root.find("numatune/memory")
    default = cpu_list(tune, "nodeset")
    per_cell = {int(node.get("cellid", "0")): cpu_list(node, "nodeset") for node in root.iterfind("numatune/memnode")}
    cells = root.findall("cpu/numa/cell")
    if not cells:
        return (GuestMemory(0, size_kib(root.find("memory")), _page_size_kib(root, 0), default),)
    found = []
    for index, cell in enumerate(cells):
        number = int(cell.get("id", str(index)))
        nodes = per_cell.get(number, default)
        found.append(GuestMemory(number, size_kib(cell, attribute="memory"), _page_size_kib(root, number), nodes))
    return tuple(found)


def _page_size_kib(root: etree._Element, cell: int) -> int:
    """Return the page size of a guest cell: its own ``<page nodeset=>``, the one for all, or the base size."""
    huge = root.find("memoryBacking/hugepages")
    if huge is None:
        return BASE_PAGE_SIZE_KIB
    pages = huge.findall("page")
    if not pages:
        return DEFAULT_HUGE_PAGE_KIB
    own = [page for page in pages if cell in CpuSet.parse(page.get("nodeset", ""))]
    for_all = [page for page in pages if page.get("nodeset") is None]
    chosen = own or for_all
    return size_kib(chosen[0], attribute="size") if chosen else BASE_PAGE_SIZE_KIB


def _vcpu_pins(root: etree._Element) -> tuple[tuple[int, CpuSet], ...]:
    count = int(root.findtext("vcpu") or 1)
    floating = cpu_list(root.find("vcpu"), "cpuset")
    pins = {} if floating is None else dict.fromkeys(range(count), floating)
    for pin in root.iterfind("cputune/vcpupin"):
        pins[int(pin.get("vcpu", "0"))] = CpuSet.parse(pin.get("cpuset", ""))
    return tuple(sorted(pins.items()))


def _emulator_pin(root: etree._Element) -> CpuSet | None:
    return cpu_list(root.find("cputune/emulatorpin"), "cpuset") or cpu_list(root.find("vcpu"), "cpuset")


def _iothread_pins(root: etree._Element) -> tuple[tuple[int, CpuSet | None], ...]:
    count = int(root.findtext("iothreads") or 0)
    pins: dict[int, CpuSet | None] = dict.fromkeys(range(1, count + 1), cpu_list(root.find("vcpu"), "cpuset"))
    for pin in root.iterfind("cputune/iothreadpin"):
        pins[int(pin.get("iothread", "0"))] = CpuSet.parse(pin.get("cpuset", ""))
    return tuple(sorted(pins.items()))


def _tuned_nodes(root: etree._Element, memory: tuple[GuestMemory, ...]) -> CpuSet:
    nodes = cpu_list(root.find("numatune/memory"), "nodeset") or EMPTY
    for cell in memory:
        nodes |= cell.nodes or EMPTY
    return nodes


def _abi(root: etree._Element, memory: tuple[GuestMemory, ...]) -> tuple[tuple[str, str, str], ...]:
    """Return what may not change, as (libvirt's words before the two values, the words between, this value)."""
    os_type = root.find("os/type")
    target, match = "Target", "does not match source"
    facts = [
        (f"{target} domain name", match, f"'{root.findtext('name')}'"),
        (f"{target} domain uuid", match, root.findtext("uuid") or ""),
        (f"{target} domain vCPU count", match, root.findtext("vcpu") or "1"),
        (f"{target} NUMA node count", "doesn't match source", f"'{len(memory)}'"),
        *((f"Size of target NUMA node {one.cell}", "doesn't match source", f"({one.size_kib})") for one in memory),
        *(
            (f"Processor mask of target NUMA node {number}", "doesn't match source", cell.get("cpus", ""))
            for number, cell in enumerate(root.iterfind("cpu/numa/cell"))
        ),
        (f"{target} domain machine type", match, "" if os_type is None else os_type.get("machine", "")),
    ]
    for nic in root.iterfind("devices/interface"):
        for what, name in (("mac", "address"), ("model", "type"), ("mtu", "size")):
            part = nic.find(what)
            facts.append((f"{target} network card {what}", match, "" if part is None else part.get(name, "")))
    return tuple(facts)


def abi_difference(source: GuestConfig, dest: GuestConfig) -> str:
    """Return libvirt's sentence about the first thing that must not differ, or ""."""
    for (what, words, mine), (_, _, theirs) in zip(source.abi, dest.abi, strict=False):
        if mine != theirs:
            return f"unsupported configuration: {what} {theirs} {words} {mine}"
    if len(source.abi) != len(dest.abi):
        return "unsupported configuration: Target domain net card count does not match source"
    return ""


def as_defined(xml: str, uuid: str) -> str:
    """Return the XML as libvirt tells it once it has read it: sizes in KiB, cells numbered, with a UUID."""
    read_config(xml)
    root = parse_xml(xml)
    name = root.find("name")
    if not root.findtext("uuid"):
        element = etree.Element("uuid")
        element.text = uuid
        root.insert(0 if name is None else root.index(name) + 1, element)
    memory = root.find("memory")
    for size in [one for one in (memory, root.find("currentMemory")) if one is not None]:
        size.text = str(size_kib(size))
        size.set("unit", "KiB")
    if memory is not None and root.find("currentMemory") is None:
        current = etree.Element("currentMemory", unit="KiB")
        current.text = memory.text
        root.insert(root.index(memory) + 1, current)
    for index, cell in enumerate(root.iterfind("cpu/numa/cell")):
        cell.set("memory", str(size_kib(cell, attribute="memory")))
        cell.set("id", cell.get("id", str(index)))
        cell.set("unit", "KiB")
    return etree.tostring(root, encoding="unicode")


def with_pins(xml: str, vcpus: Mapping[int, CpuSet], emulator: CpuSet | None) -> str:
    """Return the XML with these pins in ``<cputune>``."""
    root = parse_xml(xml)
    tune = root.find("cputune")
    if tune is None:
        vcpu = root.find("vcpu")
        tune = etree.Element("cputune")
        root.insert(len(root) if vcpu is None else root.index(vcpu) + 1, tune)
    for vcpu_id, cpus in sorted(vcpus.items()):
        pin = next((pin for pin in tune.findall("vcpupin") if pin.get("vcpu") == str(vcpu_id)), None)
        if pin is None:
            pin = etree.SubElement(tune, "vcpupin", vcpu=str(vcpu_id))
        pin.set("cpuset", str(cpus))
    if emulator is not None:
        pin = tune.find("emulatorpin")
        if pin is None:
            pin = etree.SubElement(tune, "emulatorpin")
        pin.set("cpuset", str(emulator))
    return etree.tostring(root, encoding="unicode")


def without_secrets(xml: str) -> str:
    """Return the XML as libvirt tells it without VIR_DOMAIN_XML_SECURE."""
    root = parse_xml(xml)
    for element in root.iter():
        for secret in _SECRETS:
            if secret in element.attrib:
                del element.attrib[secret]
    return etree.tostring(root, encoding="unicode")


def with_id(xml: str, number: int) -> str:
    """Return the XML with the running domain's id, as live XML has it."""
    root = parse_xml(xml)
    root.set("id", str(number))
    return etree.tostring(root, encoding="unicode")


def without_id(xml: str) -> str:
    """Return the XML without the running domain's id, as migratable and inactive XML are."""
    root = parse_xml(xml)
    if "id" in root.attrib:
        del root.attrib["id"]
    return etree.tostring(root, encoding="unicode")
