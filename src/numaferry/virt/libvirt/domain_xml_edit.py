"""Putting a plan into a domain's XML with the smallest edits: attributes first, elements only where they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lxml import etree

from numaferry.model import BASE_PAGE_SIZE_KIB, CpuSet, VifKind
from numaferry.request.domain import page_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.model import Vif
    from numaferry.virt.libvirt.domain_xml_plan import Plan

#: The order in which libvirt writes children of ``<domain>`` and of ``<cputune>``; what is not listed comes after.
_DOMAIN_ORDER: Final = (
    *("name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory", "currentMemory", "blkiotune"),
    *(
        "memtune",
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "defaultiothread",
        "cputune",
        "numatune",
    ),
)
_CPUTUNE_ORDER: Final = (
    *("shares", "period", "quota", "global_period", "global_quota", "emulator_period", "emulator_quota"),
    *("iothread_period", "iothread_quota", "vcpupin", "emulatorpin", "iothreadpin"),
)
_NUMATUNE_ORDER: Final = ("memory", "memnode")

_SOURCE_ATTRIBUTE: Final = {VifKind.BRIDGE: "bridge", VifKind.DIRECT: "dev", VifKind.NETWORK: "network"}


def insert(parent: etree._Element, child: etree._Element, order: Sequence[str]) -> None:
    """Put a child where libvirt would write it, indented as its neighbours are."""
    rank = {tag: place for place, tag in enumerate(order)}
    mine = rank[str(child.tag)]
    index = sum(1 for other in parent if rank.get(str(other.tag), len(order)) <= mine)
    parent.insert(index, child)
    if index:
        before = parent[index - 1]
        child.tail = before.tail
        if index == len(parent) - 1:
            before.tail = parent.text
    else:
        child.tail = parent.text


def remove(child: etree._Element) -> None:
    """Take an element out and leave no torn indentation."""
    parent, before = child.getparent(), child.getprevious()
    if parent is None:
        raise ValueError("the root can't be removed")
    if before is not None and child.getnext() is None:
        before.tail = child.tail
    parent.remove(child)


def _child(parent: etree._Element, tag: str, order: Sequence[str]) -> etree._Element:
    """Return the child of this tag, made where there is none."""
    found = parent.find(tag)
    if found is None:
        found = etree.Element(tag)
        insert(parent, found, order)
        found.text = _deeper(parent.text)
    return found


def _deeper(indent: str | None) -> str | None:
    """Return the text before a first child, one level deeper than `indent`."""
    return indent + "  " if indent and "\n" in indent else indent


def _settle(element: etree._Element) -> None:
    """Take an element out if our edits left nothing in it; else put its closing tag on its own level."""
    parent = element.getparent()
    if len(element) == 0:
        remove(element)
    elif parent is not None and parent.text and not (element[-1].tail or "").strip():
        element[-1].tail = parent.text


def edit_pins(root: etree._Element, plan: Plan) -> None:
    """Set, add and take away vcpupin, emulatorpin and every iothreadpin."""
    pins = [plan.emulator, *(cpus for _, cpus in (*plan.vcpu_pins, *plan.iothread_pins))]
    if not any(pins) and not root.findall("cputune/*"):
        return  # nothing to say, and an empty <cputune/> stays as it is
    cputune = _child(root, "cputune", _DOMAIN_ORDER)
    for vcpu, cpus in plan.vcpu_pins:
        _pin(cputune, "vcpupin", "vcpu", vcpu, cpus)
    _pin(cputune, "emulatorpin", None, None, plan.emulator)
    for iothread, cpus in plan.iothread_pins:
        _pin(cputune, "iothreadpin", "iothread", iothread, cpus)
    _settle(cputune)


def _pin(cputune: etree._Element, tag: str, key: str | None, number: int | None, cpus: CpuSet | None) -> None:
    """Make one pin what it must be; None takes it away."""
    found = [
        pin
        for pin in cputune.findall(tag)
        if key is None or (pin.get(key, "").isdigit() and int(pin.get(key, "")) == number)
    ]
    if cpus is None:
        for pin in found:
            remove(pin)
        return
    if not found:
        found = [etree.Element(tag, {} if key is None else {key: str(number)})]
        insert(cputune, found[0], _CPUTUNE_ORDER)
    for pin in found:
        if CpuSet.parse(pin.get("cpuset", "")) != cpus:
            pin.set("cpuset", str(cpus))


def edit_cpuset(root: etree._Element, plan: Plan) -> None:
    """Set or take away ``<vcpu cpuset>``; a guest that numad places is left to numad."""
    vcpu = root.find("vcpu")
    if vcpu is None or vcpu.get("placement") == "auto":
        return
    if plan.cpuset is None:
        _unset(vcpu, "cpuset")
    elif CpuSet.parse(vcpu.get("cpuset", "")) != plan.cpuset:
        vcpu.set("cpuset", str(plan.cpuset))


def edit_memory_binding(root: etree._Element, plan: Plan) -> None:
    """Set ``<numatune>``: memory's nodeset, each cell's memnode; modes stay. Without nodes it is taken away."""
    numatune = root.find("numatune")
    if plan.nodes is None:
        if numatune is not None:
            remove(numatune)
        return
    numatune = _child(root, "numatune", _DOMAIN_ORDER)
    memory = numatune.find("memory")
    if memory is None:
        memory = etree.Element("memory", mode="strict")
        insert(numatune, memory, _NUMATUNE_ORDER)
    nodes = CpuSet.of(node for _, node in plan.nodes)
    if memory.get("mode") == "preferred":  # libvirt takes one node only for this mode
        nodes = CpuSet.of([plan.nodes[0][1]])
    _unset(memory, "placement")
    _set_nodes(memory, nodes)
    memnodes = {node.get("cellid"): node for node in numatune.findall("memnode")}
    guest_cells = len(root.findall("cpu/numa/cell"))
    for cell, node in plan.nodes:
        memnode = memnodes.get(str(cell))
        if memnode is None and guest_cells > 1:
            memnode = etree.Element("memnode", cellid=str(cell), mode=memory.get("mode", "strict"))
            insert(numatune, memnode, _NUMATUNE_ORDER)
        if memnode is not None:
            _set_nodes(memnode, CpuSet.of([node]))
    _settle(numatune)


def _unset(element: etree._Element, attribute: str) -> None:
    if attribute in element.attrib:
        del element.attrib[attribute]


def _set_nodes(element: etree._Element, nodes: CpuSet) -> None:
    if CpuSet.parse(element.get("nodeset", "")) != nodes:
        element.set("nodeset", str(nodes))


def edit_page_sizes(root: etree._Element, plan: Plan) -> None:
    """Rewrite ``<memoryBacking><hugepages>`` where a cell's page size is another one, or is not said at all.

    ``<hugepages/>`` without a size means the destination kernel's default, so the size that was claimed is written out.
    """
    if plan.page_sizes is None:
        return
    default, cells = page_sizes(root)
    now = {cell: cells.get(cell, default) or BASE_PAGE_SIZE_KIB for cell, _ in plan.page_sizes}
    hugepages = root.find("memoryBacking/hugepages")
    if now == dict(plan.page_sizes) and (hugepages is None or len(hugepages)):
        return
    backing = _child(root, "memoryBacking", _DOMAIN_ORDER)
    if hugepages is not None:
        remove(hugepages)
    by_size: dict[int, list[int]] = {}
    for cell, size_kib in plan.page_sizes:
        by_size.setdefault(size_kib, []).append(cell)
    if set(by_size) != {BASE_PAGE_SIZE_KIB}:
        backing.insert(0, _hugepages(by_size, backing.text))
        backing[0].tail = backing.text
    _settle(backing)


def _hugepages(by_size: dict[int, list[int]], indent: str | None) -> etree._Element:
    """Return ``<hugepages>``: one page size for all cells, or one for the cells of each size."""
    made = etree.Element("hugepages")
    made.text = _deeper(indent)
    for size_kib, cells in sorted(by_size.items()):
        if size_kib > BASE_PAGE_SIZE_KIB:
            page = etree.SubElement(made, "page", size=str(size_kib), unit="KiB")
            page.tail = made.text
            if len(by_size) > 1:
                page.set("nodeset", str(CpuSet.of(cells)))
    made[-1].tail = indent
    return made


def edit_interfaces(root: etree._Element, vifs: Sequence[Vif]) -> None:
    """Put each NIC, found by its MAC, on its link of the destination; sources of other kinds stay as they are."""
    by_mac = {vif.mac.lower(): vif for vif in vifs if vif.kind in _SOURCE_ATTRIBUTE}
    for interface in root.findall("devices/interface"):
        mac = interface.find("mac")
        vif = by_mac.get("" if mac is None else mac.get("address", "").lower())
        source = interface.find("source")
        if vif is None or source is None:
            continue
        attribute = _SOURCE_ATTRIBUTE[vif.kind]
        if interface.get("type") != vif.kind.value:
            interface.set("type", vif.kind.value)
            source.attrib.clear()
            if vif.kind is VifKind.DIRECT:
                source.set("mode", "bridge")
        if source.get(attribute) != vif.source_dev:
            source.set(attribute, vif.source_dev)
