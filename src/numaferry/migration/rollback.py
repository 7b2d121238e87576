"""Undoing, in reverse. The guest runs on the source, or has ended there; each undo may run twice, or for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.migration import emulator, images
from numaferry.migration.prepare import OWNERSHIP, noted_ownership

if TYPE_CHECKING:
    from numaferry.migration.move import Move


def rollback_live_migration(move: Move) -> None:
    """Give the guest on the source back what it had before the move: the emulator's CPUs, and the mark."""
    emulator.restore(move)
    if move.memo(OWNERSHIP) is None:
        return
    mark = noted_ownership(move)
    move.tidy(f"restoring the mark on {move.source.name}", lambda: move.source_host.set_ownership(move.uuid, mark))


def rollback_live_migration_at_destination(move: Move) -> None:
    """Take back what was made on the destination; one that can't be reached is no reason to hold its claim."""
    unplug_at_destination(move)
    images.remove(move)


def unplug_at_destination(move: Move) -> None:
    """Take back what `plug_vifs` made on the destination."""
    what = f"unplugging the links on {move.dest.name}"
    move.tidy(what, lambda: move.dest_host.unplug_vifs(move.mutated), reach=False)
