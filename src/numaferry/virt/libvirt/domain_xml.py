"""The destination's domain XML: a pure function of the guest's XML, the mutated instance, and the destination.

What may change is listed in `CHANGED_PATHS` and is free in libvirt's ABI check of a migration
(`virDomainDefCheckABIStability`); everything else is the source's XML, equal under canonicalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lxml import etree

from numaferry.request import parse_domain
from numaferry.request.xml import parse_xml
from numaferry.virt.libvirt.domain_xml_difference import changed_paths, strip_secrets, xml_difference
from numaferry.virt.libvirt.domain_xml_edit import (
    edit_cpuset,
    edit_interfaces,
    edit_memory_binding,
    edit_page_sizes,
    edit_pins,
)
from numaferry.virt.libvirt.domain_xml_plan import Dest, EmulatorCpus, emulator_cpus, make_plan
from numaferry.virt.ownership import manager_of, ownership_element, read_ownership, with_ownership

if TYPE_CHECKING:
    from numaferry.model import HostConfig, HostFacts, Instance, Ownership

#: XPath of everything that `get_updated_guest_xml` may change, with the reason.
CHANGED_PATHS: Final = {
    "/domain/vcpu/@cpuset": "where threads without a pin run: the destination's shared set",
    "/domain/cputune/vcpupin": "vCPUs on the CPUs that were claimed",
    "/domain/cputune/emulatorpin": "emulator threads by their policy; on the migration's CPUs while the guest arrives",
    "/domain/cputune/iothreadpin": "iothreads with the emulator, or beside the vCPU they were beside",
    "/domain/numatune": "each guest cell's memory on the host cell that was claimed",
    "/domain/memoryBacking/hugepages": "the page size that was claimed",
    "/domain/devices/interface/@type": "a link of another kind on the destination",
    "/domain/devices/interface/source": "the link that carries the same physical network",
    "/domain/metadata/*[namespace-uri()='urn:numaferry:domain:1']": "which claim the guest belongs to",
}


def get_updated_guest_xml(
    xml: str,
    instance: Instance,
    *,
    dest_facts: HostFacts,
    dest_config: HostConfig,
    ownership: Ownership | None = None,
    arriving: bool = False,
) -> str:
    """Return the XML with which the guest starts on the destination: PERSIST_XML, or with `arriving` DEST_XML.

    They differ in the emulator's pin: while it arrives, its threads and the migration's keep off dedicated CPUs.

    `instance` is `mutated_migration_context()`'s: its topology and vifs are those of the destination. `ownership`, if
    given, replaces our metadata element. The result holds whatever secrets `xml` held: never log or store it. Raises
    InvalidInput for XML that can't be read, and CheckFailed where claim, XML and destination don't go together or QEMU
    is known not to start.
    """
    plan = make_plan(parse_domain(xml), instance, Dest(dest_facts, dest_config), arriving=arriving)
    root = parse_xml(xml)
    edit_cpuset(root, plan)
    edit_pins(root, plan)
    edit_memory_binding(root, plan)
    edit_page_sizes(root, plan)
    edit_interfaces(root, instance.vifs)
    updated = etree.tostring(root, encoding="unicode")
    return updated if ownership is None else with_ownership(updated, ownership)


__all__ = [
    "CHANGED_PATHS",
    "EmulatorCpus",
    "changed_paths",
    "emulator_cpus",
    "get_updated_guest_xml",
    "manager_of",
    "ownership_element",
    "read_ownership",
    "strip_secrets",
    "xml_difference",
]
