"""A migration and its context: the old and the new topology, pins, devices and links, kept until the move has ended.

The words are those of the thread: `MigrationContext` with ``old_``/``new_`` fields, and
`mutated_migration_context()`, which shows the instance as it will be on the destination.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from numaferry.model.policy import MigrationPolicy

if TYPE_CHECKING:
    from numaferry.model.host import PciDevice
    from numaferry.model.instance import Instance, InstanceNumaTopology, Vif


class MigrationStatus(enum.StrEnum):
    """nova's migration statuses, so that its clients read them."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    POST_MIGRATING = "post-migrating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Needs a person.
    ERROR = "error"


class MigrationType(enum.StrEnum):
    """What kind of move it is; nova's word where nova has one."""

    LIVE_MIGRATION = "live-migration"
    #: To other CPUs of the host on which it runs: source and dest are one host.
    REPIN = "repin"


#: Statuses from which a migration goes on, or is mended by a person: it can hold a claim beside the current one, and
#: the instance takes no other. Which claims are held at a moment only the ledger knows: the flip ends the second one.
IN_PROGRESS = frozenset(
    {
        MigrationStatus.ACCEPTED,
        MigrationStatus.QUEUED,
        MigrationStatus.PREPARING,
        MigrationStatus.RUNNING,
        MigrationStatus.POST_MIGRATING,
        MigrationStatus.ERROR,
    }
)


@attrs.frozen(slots=True)
class MigrationContext:
    """Old and new side of a move: nova's MigrationContext, with the links of the guest's NICs beside it.

    Everything `old_` is true of the source, everything `new_` of the destination's claim. Nothing secret is in it.
    """

    old_numa_topology: InstanceNumaTopology | None
    new_numa_topology: InstanceNumaTopology | None
    old_pci_devices: tuple[PciDevice, ...] = ()
    new_pci_devices: tuple[PciDevice, ...] = ()
    old_vifs: tuple[Vif, ...] = ()
    new_vifs: tuple[Vif, ...] = ()
    #: The destination's shared set, for guests or emulator threads that float there; "" = any CPU.
    new_cpu_shared_set: str = ""


@attrs.frozen(slots=True)
class Migration:
    """One move of one instance. `id` is a small number as in nova, `uuid` its stable name."""

    id: int
    uuid: str
    instance_uuid: str
    source: str
    dest: str
    status: MigrationStatus
    #: Name of the last step of the step table whose intent is committed; "" before the first.
    step: str = ""
    #: One sentence: why it is in this status.
    reason: str = ""
    context: MigrationContext | None = None
    #: Seconds since the epoch, by the database's clock.
    created_at: float = 0.0
    updated_at: float = 0.0
    #: Who drives it ("host/boot.namespace:pid:start.n"); "" for nobody.
    controller: str = ""
    #: The person asked for it to be given up.
    abort_requested: bool = False
    policy: MigrationPolicy = attrs.field(factory=MigrationPolicy)
    #: A person wants its end forced: "post-copy" or "pause"; "" while nobody does.
    force_complete: str = ""
    #: Emulator pin, NIC links and whatever else rollback must restore on the source; plain text values.
    source_memo: tuple[tuple[str, str], ...] = ()
    migration_type: MigrationType = MigrationType.LIVE_MIGRATION
    #: Fencing token of the lease under which it is driven: one higher for each controller that takes it.
    token: int = 0
    #: Until when the lease holds, in seconds since the epoch by the database's clock.
    lease_until: float = 0.0
    #: Its place in the queue: the higher ones begin first.
    priority: int = 0

    @property
    def in_progress(self) -> bool:
        """Tell whether it has not ended; a migration in `error` waits for a person and counts."""
        return self.status in IN_PROGRESS


def mutated_migration_context(instance: Instance) -> Instance:
    """Return the instance as it will be on the destination: new topology, devices and links in place of the old.

    A pure function: the instance given is not changed (nova's is a context manager that swaps and swaps back). It is
    the only input of `plug_vifs` and of the destination XML. Raises ValueError where there is no migration context,
    since then the *old* pins and devices would go to the destination.
    """
    context = instance.migration_context
    if context is None:
        raise ValueError(f"instance {instance.name} has no migration context: its old pins would go to the destination")
    return attrs.evolve(
        instance,
        numa_topology=context.new_numa_topology,
        pci_devices=context.new_pci_devices,
        vifs=context.new_vifs,
    )
