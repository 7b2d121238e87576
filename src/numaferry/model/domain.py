"""What discovery sees of a domain, and what a migration job reports: plain values, no libvirt.

`DomainSeen` is reality as libvirt tells it; what the guest *needs* is read from its XML by `numaferry.request`.
"""

from __future__ import annotations

import enum

import attrs

from numaferry.model.cpuset import CpuSet  # noqa: TC001  (cattrs reads the annotations when it runs)
from numaferry.model.policy import MigrationPolicy

#: Namespace of our element in a domain's metadata, and the prefix it is written with.
METADATA_URI = "urn:numaferry:domain:1"
METADATA_PREFIX = "numaferry"


class DomainState(enum.StrEnum):
    """libvirt's virDomainState, by name; the reason stands beside it in `DomainSeen.state_reason`."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    OTHER = "other"

    @property
    def active(self) -> bool:
        """Tell whether a QEMU process exists."""
        return self in {DomainState.RUNNING, DomainState.PAUSED, DomainState.OTHER}


@attrs.frozen(slots=True)
class Ownership:
    """What we write into a managed domain's metadata: enough to find the claim again with nothing else left.

    It travels with the guest in the migratable XML. `migration_uuid` and `token` are empty outside a move.
    """

    ledger_id: str
    claim_id: str
    migration_uuid: str = ""
    token: int = 0


@attrs.frozen(slots=True)
class DomainSeen:
    """One domain of one host at one moment. `xml` is the live XML without secrets (the inactive one when it is off)."""

    uuid: str
    name: str
    state: DomainState
    #: libvirt's reason as a stable word: "booted", "migrated", "migration", "user", "crashed", "destroyed", "saved"
    state_reason: str
    persistent: bool
    xml: str
    ownership: Ownership | None = None
    #: "nova" where nova's metadata element is present, "" otherwise.
    manager: str = ""
    #: How many snapshots libvirt keeps of it; None where the host could not tell.
    snapshots: int | None = None


@attrs.frozen(slots=True)
class ThreadMasks:
    """Affinity masks as the *kernel* has them (virDomainGetVcpus, virDomainGetIOThreadInfo), not libvirt's echo.

    The emulator's mask and the place of 4 KiB pages can't be read over libvirt: they are not here, and are reported
    "not verifiable".
    """

    vcpus: tuple[tuple[int, CpuSet], ...]
    iothreads: tuple[tuple[int, CpuSet], ...] = ()


class XmlKind(enum.StrEnum):
    """Which XML of a domain.

    LIVE comes without secrets; MIGRATABLE and INACTIVE (the persistent one) come with them and are never stored,
    logged or shown.
    """

    LIVE = "live"
    MIGRATABLE = "migratable"
    INACTIVE = "inactive"


@attrs.frozen(slots=True)
class JobInfo:
    """Progress of a migration job, in the words of virDomainGetJobStats; bytes, milliseconds."""

    time_elapsed_ms: int = 0
    memory_total_bytes: int = 0
    memory_processed_bytes: int = 0
    memory_remaining_bytes: int = 0
    memory_bps: int = 0
    #: pages of `memory_page_size_bytes` dirtied per second
    memory_dirty_rate: int = 0
    memory_page_size_bytes: int = 0
    memory_iteration: int = 0
    #: The pause at the switch: expected while the job runs, measured once it has ended.
    downtime_ms: int = 0
    setup_ms: int = 0
    disk_total_bytes: int = 0
    disk_processed_bytes: int = 0
    disk_remaining_bytes: int = 0
    disk_bps: int = 0
    #: Percent of the guest's CPU time that auto-converge takes now.
    auto_converge_throttle: int = 0
    #: Pages that the destination has asked for in post-copy.
    postcopy_requests: int = 0
    #: Set for the statistics of a job that has ended.
    completed: bool = False


@attrs.frozen(slots=True)
class MigrateCall:
    """One call of driver.live_migration(): everything libvirt needs, nothing decided later.

    `dest_xml` and `persistent_xml` carry secrets: a value of this class is never stored nor
    logged, and its repr hides them.
    """

    uuid: str
    #: URI by which the source's daemon reaches the destination's (peer-to-peer).
    dest_uri: str
    #: tcp://ADDRESS of the data connection; "" lets libvirt choose.
    migrate_uri: str
    dest_xml: str = attrs.field(repr=False)
    #: None for a transient domain, which stays transient.
    persistent_xml: str | None = attrs.field(repr=False, default=None)
    policy: MigrationPolicy = attrs.field(factory=MigrationPolicy)
    #: The destination's QEMU listens on this address alone; "": on all, or as its qemu.conf says.
    listen_address: str = ""
    #: Targets ("vda") of the disks that libvirt copies; the others it leaves where they are.
    migrate_disks: tuple[str, ...] = ()
    #: Disks are shared by the operator's word, where libvirt itself may hold them to be local (VIR_MIGRATE_UNSAFE).
    disks_said_shared: bool = False
