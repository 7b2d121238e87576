"""Steps before the job: the checks again on the claimed host, then links and the memo of what was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import CheckFailed
from numaferry.migration import images
from numaferry.migration.checks import (
    check_can_live_migrate_destination,
    check_can_live_migrate_source,
    look_at_dest,
    look_at_source,
    look_at_start,
    refuse,
)
from numaferry.migration.disks import check_disks
from numaferry.migration.pages import dump_pages
from numaferry.model import MigrateCall, Ownership, XmlKind
from numaferry.virt.libvirt.domain_xml import get_updated_guest_xml

if TYPE_CHECKING:
    from numaferry.migration.move import Move

#: Keys of a migration's memo.
FORCE, OWNERSHIP, PAGES_BEFORE = "force", "source_ownership", "dest_free_pages_before"


def check_destination(move: Move) -> None:
    """Check the claimed host once more, its free pages against the very cells of the claim; raises CheckFailed."""
    mutated = move.mutated
    asked = look_at_start(move.source_host, move.uuid)
    view = look_at_dest(move.dest.name, move.dest_host, mutated.vifs, asked)
    checks = check_can_live_migrate_destination(view, mutated, move.source.facts, asked, mutated.numa_topology)
    # once its images are noted, what lies there may be ours
    if move.memo(images.COPIES) is None:
        xml = move.source_host.domain_xml(move.uuid, XmlKind.LIVE)
        checks += check_disks(images.view_of(move, xml), move.migration.policy)
    refuse(checks, f"{move.instance.name} can't go to {move.dest.name}")


def check_source(move: Move) -> None:
    """Check the guest on the source once more; raises CheckFailed, Conflict, NotManaged."""
    view = look_at_source(move.source.name, move.source_host, move.uuid)
    checks = check_can_live_migrate_source(
        view, move.instance, move.tools.ledger.ledger_id, force=move.memo(FORCE) == "1"
    )
    refuse(checks, f"{move.instance.name} can't leave {move.source.name}")


def pre_live_migration(move: Move) -> None:
    """Note what the source looks like, make images for disks that are copied, `plug_vifs` with the mutated instance.

    The destination XML is made here too and thrown away, so that one that can't be made fails before the job.
    """
    if move.memo(PAGES_BEFORE) is None:
        seen = move.source_host.domain(move.uuid)
        mark = seen.ownership if seen else None
        memo = {
            PAGES_BEFORE: dump_pages(move.dest_host.free_pages()),
            OWNERSHIP: "" if mark is None else json.dumps(attrs.asdict(mark)),
            **({images.JUDGED: images.judged(seen.xml)} if seen else {}),
        }
        move.commit("noted the guest's mark on the source and the free pages on the destination", memo=memo)
    make_call(move)
    images.prepare(move, move.source_host.domain_xml(move.uuid, XmlKind.LIVE))
    move.dest_host.plug_vifs(move.mutated)


def make_call(move: Move) -> MigrateCall:
    """Return the call of driver.live_migration(); it carries the guest's secrets and is kept nowhere.

    Both XMLs are made by one function, only from the mutated instance, and are made before the source's emulator is
    pinned for the job, so that neither knows of that; the persistent one only for a persistent
    domain, from its inactive XML: a transient guest stays transient.
    """
    source, mutated = move.source_host, move.mutated
    ownership = move.mark(move.dest, moving=True)
    facts = move.dest_host.facts()

    def updated(kind: XmlKind) -> str:
        return get_updated_guest_xml(
            source.domain_xml(move.uuid, kind),
            mutated,
            dest_facts=facts,
            dest_config=move.dest.config,
            ownership=ownership,
            arriving=kind is XmlKind.MIGRATABLE,
        )

    seen = source.domain(move.uuid)
    if seen is None:
        raise CheckFailed(f"{move.instance.name} is gone from {move.source.name}", hint="look at its host")
    images.refuse_changed(move, seen.xml)
    return MigrateCall(
        uuid=move.uuid,
        dest_uri=move.dest.config.peer_uri or move.dest.uri,
        migrate_uri=move.dest.config.migrate_uri,
        listen_address=move.dest.config.listen_address,
        dest_xml=updated(XmlKind.MIGRATABLE),
        persistent_xml=updated(XmlKind.INACTIVE) if seen.persistent else None,
        policy=move.migration.policy,
        migrate_disks=images.migrate_disks(move),
        disks_said_shared=bool(move.memo(images.SAID)),
    )


def noted_ownership(move: Move) -> Ownership | None:
    """Return the mark that the source's domain bore before the move."""
    text = move.memo(OWNERSHIP)
    return Ownership(**json.loads(text)) if text else None
