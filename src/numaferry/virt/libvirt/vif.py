"""Links under a guest's NICs: are they there and up, before libvirt finds out while it starts the guest.

libvirt makes the macvtap device and the tap itself when it starts the incoming guest, and takes them away with it. So
plugging is verifying that what they are made *on* is ready; there is nothing to unplug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import VifKind
from numaferry.virt.libvirt.connection import libvirt
from numaferry.virt.libvirt.discovery import read_links
from numaferry.virt.links import link_reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.model import Vif


def missing_links(connection: libvirt.virConnect, vifs: Sequence[Vif]) -> tuple[str, ...]:
    """Return one sentence per NIC whose link is missing or down; empty means that all are there.

    Where the daemon can't list links, nothing is claimed about them: libvirt's error at the guest's start is then the
    first to tell (`HostFacts.links` is None there, which says so).
    """
    links = read_links(connection)
    return tuple(reason for vif in vifs if (reason := _reason(connection, vif, links)))


def _reason(connection: libvirt.virConnect, vif: Vif, links: dict[str, bool] | None) -> str:
    if vif.kind is VifKind.NETWORK:
        return _network_reason(connection, vif)
    if vif.kind is VifKind.OTHER or links is None:
        return ""
    return link_reason(vif, links)


def _network_reason(connection: libvirt.virConnect, vif: Vif) -> str:
    try:
        active = connection.networkLookupByName(vif.source_dev).isActive()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_SUPPORT}:
            raise
        return f"NIC {vif.mac}: libvirt network {vif.source_dev} does not exist"
    return "" if active else f"NIC {vif.mac}: libvirt network {vif.source_dev} is not active"
