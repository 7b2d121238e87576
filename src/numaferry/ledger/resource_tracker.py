"""The resource tracker of the thread, as a small face over the ledger.

nova's keeps its figures in each compute service and mends them by a periodic audit; here the ledger's rows are the
figures, and this object only gives them the thread's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numaferry.ledger.usage import HostUsage, host_usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.ledger import Ledger
    from numaferry.ledger.claims import InstanceClaim, MoveClaim
    from numaferry.ledger.explain import HostExplanation
    from numaferry.model import Instance, Migration, MigrationStatus


class ResourceTracker:
    """Claims and usage under nova's names; every method is one method of the ledger and raises its errors."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def instance_claim(self, instance: Instance) -> InstanceClaim:
        """Claim what a guest has where it runs."""
        return self._ledger.claim_instance(instance)

    def live_migration_claim(self, instance_uuid: str, candidates: Sequence[str], **options: Any) -> MoveClaim:
        """Choose and claim a destination; `options` as in `Ledger.live_migration_claim`."""
        return self._ledger.live_migration_claim(instance_uuid, candidates, **options)

    def drop_move_claim(self, migration_id: int | str, status: MigrationStatus, reason: str) -> Migration | None:
        """Release the destination's claim of a move that is given up."""
        return self._ledger.drop_move_claim(migration_id, status, reason)

    def usage(self, host: str) -> HostUsage:
        """Return own, incoming and outgoing use of a host."""
        return host_usage(self._ledger, host)

    def explain_host(self, host: str) -> HostExplanation:
        """Say of every CPU and pool of a host who holds it, by which claim and why."""
        return self._ledger.explain_host(host)
