"""Domains as discovery sees them, and libvirt's states and reasons as stable words."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from numaferry.errors import NotFound
from numaferry.model import METADATA_PREFIX, METADATA_URI, DomainSeen, DomainState, Ownership, XmlKind
from numaferry.virt.libvirt.connection import libvirt
from numaferry.virt.ownership import manager_of, ownership_element, read_ownership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: virDomainState, by number (include/libvirt/libvirt-domain.h). A blocked domain runs: it waits for a resource.
STATES: Mapping[int, DomainState] = {
    0: DomainState.OTHER,
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,
    3: DomainState.PAUSED,
    4: DomainState.OTHER,
    5: DomainState.SHUTOFF,
    6: DomainState.CRASHED,
    7: DomainState.OTHER,
}

#: (virDomainState, reason) → word; libvirt's own names, without their prefix. Numbers never change in libvirt's ABI.
REASONS: Mapping[tuple[int, int], str] = {
    (1, 1): "booted",
    (1, 2): "migrated",
    (1, 3): "restored",
    (1, 4): "from-snapshot",
    (1, 5): "unpaused",
    (1, 6): "migration-canceled",
    (1, 7): "save-canceled",
    (1, 8): "wakeup",
    (1, 9): "crashed",
    (1, 10): "postcopy",
    (1, 11): "postcopy-failed",
    (3, 1): "user",
    (3, 2): "migration",
    (3, 3): "save",
    (3, 4): "dump",
    (3, 5): "ioerror",
    (3, 6): "watchdog",
    (3, 7): "from-snapshot",
    (3, 8): "shutting-down",
    (3, 9): "snapshot",
    (3, 10): "crashed",
    (3, 11): "starting-up",
    (3, 12): "postcopy",
    (3, 13): "postcopy-failed",
    (3, 14): "api-error",
    (4, 1): "user",
    (5, 1): "shutdown",
    (5, 2): "destroyed",
    (5, 3): "crashed",
    (5, 4): "migrated",
    (5, 5): "saved",
    (5, 6): "failed",
    (5, 7): "from-snapshot",
    (5, 8): "daemon",
    (6, 1): "panicked",
}

#: Words for the states that `DomainState.OTHER` stands for, where libvirt gives no reason.
_OTHER = {0: "no-state", 4: "shutting-down", 7: "pm-suspended"}

_XML_FLAGS: Mapping[XmlKind, int] = {
    XmlKind.LIVE: 0,
    XmlKind.MIGRATABLE: libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE,
    XmlKind.INACTIVE: libvirt.VIR_DOMAIN_XML_INACTIVE
    | libvirt.VIR_DOMAIN_XML_MIGRATABLE
    | libvirt.VIR_DOMAIN_XML_SECURE,
}


def state_words(state: int, reason: int) -> tuple[DomainState, str]:
    """Return libvirt's numbers as our words; a reason of a newer libvirt reads ``reason-N``, zero ``unknown``."""
    word = REASONS.get((state, reason)) or _OTHER.get(state) or (f"reason-{reason}" if reason else "unknown")
    return STATES.get(state, DomainState.OTHER), word


def see(domain: libvirt.virDomain) -> DomainSeen:
    """Read one domain; its XML comes without secrets (no VIR_DOMAIN_XML_SECURE)."""
    state, reason = state_words(*domain.state()[:2])
    xml = domain.XMLDesc(0)
    return DomainSeen(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=state,
        state_reason=reason,
        persistent=bool(domain.isPersistent()),
        xml=xml,
        ownership=read_ownership(xml),
        manager=manager_of(xml),
        snapshots=_snapshots(domain),
    )


def _snapshots(domain: libvirt.virDomain) -> int | None:
    """Return how many snapshots the domain has, None where the driver keeps none (VIR_ERR_NO_SUPPORT)."""
    try:
        return int(domain.snapshotNum())
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return None


def list_all(connection: libvirt.virConnect) -> list[libvirt.virDomain]:
    """Return handles of all domains, active and inactive."""
    return connection.listAllDomains()


def see_all(
    listed: Iterable[libvirt.virDomain], look: Callable[[libvirt.virDomain], DomainSeen]
) -> tuple[DomainSeen, ...]:
    """Read each domain by `look`, ordered by name; one that ends while it is being read (NotFound) is left out."""
    seen: list[DomainSeen] = []
    for domain in listed:
        with suppress(NotFound):
            seen.append(look(domain))
    return tuple(sorted(seen, key=lambda one: (one.name, one.uuid)))


def read_xml(domain: libvirt.virDomain, kind: XmlKind) -> str:
    """Return the XML of this kind; all but LIVE with secrets, which the caller neither stores nor shows."""
    return domain.XMLDesc(_XML_FLAGS[kind])


def affected(domain: libvirt.virDomain) -> int:
    """Return AFFECT flags for the live domain, its configuration, or both: whatever exists."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    return live | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0)


def write_ownership(domain: libvirt.virDomain, ownership: Ownership | None) -> None:
    """Set or remove our metadata element, live and persistent; removing what is not there is no error."""
    element = None if ownership is None else ownership_element(ownership)
    try:
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, METADATA_PREFIX, METADATA_URI, affected(domain)
        )
    except libvirt.libvirtError as error:
        if ownership is not None or error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            raise
