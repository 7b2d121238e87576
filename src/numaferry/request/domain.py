"""Domain XML to `DomainNeeds`: one function for each part of libvirt's format (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet, Flavor, Vif, VifKind
from numaferry.request.needs import DomainNeeds, GuestCell, MemoryBinding, VcpuSched
from numaferry.request.xml import cpu_list, number, parse_xml, size_kib

if TYPE_CHECKING:
    from lxml import etree

#: nova's metadata since Victoria; the older 1.0 has no extra specs (nova/virt/libvirt/config.py).
NOVA_URI: Final = "http://openstack.org/xmlns/libvirt/nova/1.1"
#: A guest may carry its flavor, so that wishes that no pin shows (thread policy) survive the loss of a ledger.
FLAVOR_URI: Final = "urn:numaferry:flavor:1"

#: What ``<hugepages/>`` without a size means: the kernel's default huge page size, which libvirt does not tell. On
#: x86-64 it is 2 MiB unless the kernel was started with default_hugepagesz.
DEFAULT_HUGE_PAGE_KIB: Final = 2048

_VIF_SOURCE: Final = {
    "bridge": (VifKind.BRIDGE, "bridge"),
    "direct": (VifKind.DIRECT, "dev"),
    "network": (VifKind.NETWORK, "network"),
}

#: Where a domain XML can hold a secret in clear (only dumped with VIR_DOMAIN_XML_SECURE).
SECRET_PATHS: Final = (
    ".//graphics[@passwd]",
    ".//launchSecurity/session",
    ".//launchSecurity/dhCert",
    ".//qemu-secret",
)


def parse_domain(xml: str) -> DomainNeeds:
    """Read a domain XML, live or inactive, as libvirt writes it or as a person wrote it.

    Raises InvalidInput for malformed XML, for values that can't be read, and for cells that name no vCPUs.
    """
    root = parse_xml(xml)
    name = (root.findtext("name") or "").strip()
    if not name:
        raise InvalidInput("a domain without <name>", hint="it must be what `virsh dumpxml` prints")
    vcpu = root.find("vcpu")
    vcpus = _count(vcpu, default=1)
    default_pages, cell_pages = page_sizes(root)
    flavor, flavor_from = _flavor(root)
    return DomainNeeds(
        uuid=(root.findtext("uuid") or "").strip(),
        name=name,
        domain_type=root.get("type", "kvm"),
        vcpus=vcpus,
        online_vcpus=number(vcpu, "current") if vcpu is not None and vcpu.get("current") else vcpus,
        memory_kib=size_kib(root.find("memory")),
        cells=_cells(root, default_pages, cell_pages),
        vcpupins=tuple(sorted(_pins(root, "vcpupin", "vcpu"))),
        emulatorpin=cpu_list(root.find("cputune/emulatorpin"), "cpuset"),
        iothread_ids=_iothread_ids(root),
        iothreadpins=tuple(sorted(_pins(root, "iothreadpin", "iothread"))),
        cpuset=cpu_list(vcpu, "cpuset"),
        vcpu_placement="static" if vcpu is None else vcpu.get("placement", "static"),
        memory=_binding(root.find("numatune/memory")),
        memnodes=tuple(
            MemoryBinding(node.get("mode", "strict"), cpu_list(node, "nodeset"), number(node, "cellid"))
            for node in root.findall("numatune/memnode")
        ),
        page_size_kib=cell_pages.get(0, default_pages),
        vcpuscheds=tuple(
            VcpuSched(
                cpu_list(sched, "vcpus") or CpuSet(),
                sched.get("scheduler", ""),
                number(sched, "priority") if sched.get("priority") else None,
            )
            for sched in root.findall("cputune/vcpusched")
        ),
        vifs=tuple(_vif(interface) for interface in root.findall("devices/interface")),
        machine=next((kind.get("machine", "") for kind in root.findall("os/type")), ""),
        devices=tuple(sorted(Counter(str(device.tag) for device in root.findall("devices/*")).items())),
        has_secrets=any(root.find(path) is not None for path in SECRET_PATHS),
        has_cache_allocation=any(root.find(f"cputune/{tag}") is not None for tag in ("cachetune", "memorytune")),
        title=(root.findtext("title") or "").strip(),
        flavor=flavor,
        flavor_from=flavor_from,
    )


def page_sizes(root: etree._Element) -> tuple[int | None, dict[int, int]]:
    """Return the huge page size where no cell is named (None: base pages), and guest cell → size where one is."""
    hugepages = root.find("memoryBacking/hugepages")
    if hugepages is None:
        return None, {}
    default: int | None = None
    cells: dict[int, int] = {}
    pages = hugepages.findall("page")
    for page in pages:
        size, nodeset = size_kib(page, attribute="size"), cpu_list(page, "nodeset")
        if nodeset is None:
            default = size
        else:
            cells.update(dict.fromkeys(nodeset, size))
    return (default if pages else DEFAULT_HUGE_PAGE_KIB), cells


def _count(element: etree._Element | None, *, default: int) -> int:
    """Return an element's text as a number, or the default where there is no element."""
    text = "" if element is None else (element.text or "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise InvalidInput(f"a count of {text!r} is no number", hint="look at the domain's XML")
    return int(text)


def _iothread_ids(root: etree._Element) -> tuple[int, ...]:
    """Return the iothreads' ids: those given, and for the rest the lowest free ones, as libvirt fills them in."""
    ids = {number(iothread, "id") for iothread in root.findall("iothreadids/iothread")}
    missing = _count(root.find("iothreads"), default=0) - len(ids)
    free = (candidate for candidate in range(1, len(ids) + max(0, missing) + 1) if candidate not in ids)
    return tuple(sorted({*ids, *(next(free) for _ in range(missing))}))


def _cells(root: etree._Element, default: int | None, sizes: dict[int, int]) -> tuple[GuestCell, ...]:
    """Return the guest's NUMA cells ordered by id; a cell without an id takes its place as libvirt does."""
    found = []
    for index, cell in enumerate(root.findall("cpu/numa/cell")):
        cell_id = number(cell, "id") if cell.get("id") else index
        vcpus = cpu_list(cell, "cpus") or CpuSet()
        found.append(GuestCell(cell_id, vcpus, size_kib(cell, attribute="memory"), sizes.get(cell_id, default)))
    return tuple(sorted(found, key=lambda cell: cell.id))


def _pins(root: etree._Element, tag: str, key: str) -> list[tuple[int, CpuSet]]:
    """Return (number, CPUs) of every pin of one kind; a pin to no CPU is left out, as it pins nothing."""
    pins = [(number(pin, key), cpu_list(pin, "cpuset")) for pin in root.findall(f"cputune/{tag}")]
    return [(which, cpus) for which, cpus in pins if cpus is not None]


def _binding(memory: etree._Element | None) -> MemoryBinding | None:
    """Return ``<numatune><memory>``, which without a mode is strict."""
    return None if memory is None else MemoryBinding(memory.get("mode", "strict"), cpu_list(memory, "nodeset"))


def _vif(interface: etree._Element) -> Vif:
    """Return a NIC by its MAC, lower case as libvirt writes it."""
    mac = interface.find("mac")
    source = interface.find("source")
    kind, attribute = _VIF_SOURCE.get(interface.get("type", ""), (VifKind.OTHER, "dev"))
    return Vif(
        mac="" if mac is None else mac.get("address", "").lower(),
        kind=kind,
        source_dev="" if source is None else source.get(attribute, ""),
    )


def _flavor(root: etree._Element) -> tuple[Flavor | None, str]:
    """Return the flavor in the metadata and whose it is: ours before nova's."""
    ours = root.find(f"metadata/{{{FLAVOR_URI}}}flavor")
    if ours is not None:
        specs = [(spec.get("name", ""), (spec.text or "").strip()) for spec in ours.findall(f"{{{FLAVOR_URI}}}spec")]
        name, vcpus, memory = ours.get("name", ""), number(ours, "vcpus"), number(ours, "memory_mb")
        return Flavor(name, vcpus, memory, tuple(sorted(specs))), "numaferry"
    nova = root.find(f"metadata/{{{NOVA_URI}}}instance/{{{NOVA_URI}}}flavor")
    if nova is None:
        return None, ""
    specs = [
        (spec.get("name", ""), (spec.text or "").strip())
        for spec in nova.findall(f"{{{NOVA_URI}}}extraSpecs/{{{NOVA_URI}}}extraSpec")
    ]
    if not specs:  # releases before 2025.2 don't write them: such a flavor says less than the domain's XML
        return None, ""
    vcpus = _count(nova.find(f"{{{NOVA_URI}}}vcpus"), default=1)
    memory = _count(nova.find(f"{{{NOVA_URI}}}memory"), default=0)
    return Flavor(nova.get("name", ""), vcpus, memory, tuple(sorted(specs))), "nova"
