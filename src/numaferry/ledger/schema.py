"""The ledger's tables, in one place and for two dialects; what the tables alone can't say is in the triggers.

Invariants of ARCHITECTURE.md that live here; ``tests/ledger/test_invariants_sql.py`` tries to break each by raw SQL:

1. A dedicated CPU is promised once: the primary key of `claim_cpu`. Its rows belong to the *instance*;
   `claim_cpu_link` says which of its claims hold them, so that one CPU may be held by two claims of one guest.
2. Capacity is never over-promised: `capacity.used` is kept by triggers on `claim_amount`, which refuse past the limit.
   What two claims of one guest hold of one pool is charged once, as the larger of the two (a re-pin).
3. A device is promised once: the primary key of `claim_device`, which is built like `claim_cpu`.
4. One current claim, at most one more: ``instance.current_claim`` is not null and refers to a claim of that instance;
   `claim.slot` is 0 or 1 and unique per instance, so that there are never more than two; a trigger asks of the second
   that it belongs to a migration in progress, on another host, or for a re-pin on the same one. A claim row is never
   edited: the flip moves the reference.

The columns named ``*_json`` hold what `numaferry.model.codec` writes. Times are seconds since the epoch by the
database's clock (`epoch_now`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from numaferry.model import IN_PROGRESS, MigrationStatus, MigrationType

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection, FromClause
    from sqlalchemy.sql.compiler import SQLCompiler

#: Raised by one for every change of what stands here; a ledger of a higher number is refused, see `engine.open_ledger`.
#: Each number has a step in `numaferry.ledger.upgrades`.
SCHEMA_VERSION = 2
#: The cell of rows that count for the host as a whole.
HOST_CELL = -1
#: Text that is compared and ordered as Python does it, by code points, whatever the database's own collation is.
WORDS = Text().with_variant(Text(collation="C"), "postgresql")
#: A host's memory in KiB does not fit into 32 bits; SQLite's integers have no width.
COUNT = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()


class epoch_now(FunctionElement[float]):  # noqa: N801  (SQL functions are written in lower case)
    """The database's own clock, in seconds since the epoch: the clocks of hosts and controllers don't matter."""

    type = Float()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _sqlite_now(_element: epoch_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _postgresql_now(_element: epoch_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


def words(values: Collection[MigrationStatus] | Collection[MigrationType]) -> str:
    """Return SQL literals of statuses or types, ordered."""
    return ", ".join(f"'{value}'" for value in sorted(values))


#: Exactly one row: which ledger this is.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("ledger_id", WORDS, nullable=False),
    Column("created_at", Float, nullable=False),
)

host = Table(
    "host",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", WORDS, nullable=False, unique=True),
    Column("uuid", WORDS, nullable=False),
    Column("facts_json", WORDS, nullable=False),
    Column("config_json", WORDS, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("generation", Integer, nullable=False, default=1),
    Column("state", WORDS, CheckConstraint("state IN ('reachable', 'unreachable', 'quarantined')"), nullable=False),
    Column("state_reason", WORDS, nullable=False, default=""),
    Column("observed_at", Float),
    #: Ids of other ledgers whose guests are seen there, and of those that an operator accepted, as JSON lists.
    Column("ledgers_seen_json", WORDS, nullable=False, server_default="[]"),
    Column("ledgers_accepted_json", WORDS, nullable=False, server_default="[]"),
    Index("host_machine", "uuid", unique=True, sqlite_where=text("uuid <> ''"), postgresql_where=text("uuid <> ''")),
)

#: CPUs that may be promised alone: the confirmed dedicated set. A claim of any other CPU is refused by a trigger.
dedicated_cpu = Table(
    "dedicated_cpu",
    metadata,
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("cpu", Integer, primary_key=True),
)

#: One integer row for each (host, cell, resource); cell -1 is the host. `total` is what is there, `allowed` what may be
#: promised with the allocation ratio; a claim with `exact` set is held against `total`.
capacity = Table(
    "capacity",
    metadata,
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("cell", Integer, primary_key=True),
    Column("resource", WORDS, primary_key=True),
    Column("total", COUNT, CheckConstraint("total >= 0"), nullable=False),
    Column("allowed", COUNT, CheckConstraint("allowed >= 0"), nullable=False),
    Column("used", COUNT, CheckConstraint("used >= 0"), nullable=False, default=0),
)

instance = Table(
    "instance",
    metadata,
    Column("uuid", WORDS, primary_key=True),
    Column("name", WORDS, nullable=False),
    Column("flavor_json", WORDS, nullable=False),
    Column("request_json", WORDS, nullable=False),
    Column("persistent", Boolean, nullable=False),
    Column("current_claim", WORDS, nullable=False),
    #: Since when its domain, a transient one, has been missing from a host that could be asked; null: it is there.
    Column("gone_since", Float),
    #: How its migrations are driven, as far as an operator said of this guest.
    Column("policy_json", WORDS, nullable=False, server_default='{"said":[]}'),
    ForeignKeyConstraint(
        ["current_claim", "uuid"],
        ["claim.id", "claim.instance_uuid"],
        name="instance_current_claim",
        deferrable=True,
        initially="DEFERRED",
        use_alter=True,
    ),
)

#: What one host owes one instance. Everything that is true of an instance *on one host* stands here, so that the flip
#: of a migration moves one reference.
claim = Table(
    "claim",
    metadata,
    Column("id", WORDS, primary_key=True),
    Column(
        "instance_uuid",
        ForeignKey("instance.uuid", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    Column("host_id", ForeignKey("host.id"), nullable=False),
    Column("slot", Integer, CheckConstraint("slot IN (0, 1)"), nullable=False),
    Column("migration_id", ForeignKey("migration.id")),
    Column("numa_topology_json", WORDS, nullable=False),
    Column("pci_devices_json", WORDS, nullable=False),
    Column("vifs_json", WORDS, nullable=False),
    Column("promise", WORDS, CheckConstraint("promise IN ('kept', 'conflicted', 'floating')"), nullable=False),
    Column("cause", WORDS, nullable=False),
    Column("created_at", Float, default=epoch_now(), nullable=False),
    UniqueConstraint("instance_uuid", "slot", name="claim_two_at_most"),
    UniqueConstraint("id", "instance_uuid", name="claim_of_instance"),
    UniqueConstraint("id", "instance_uuid", "host_id", name="claim_of_instance_on_host"),
    Index(
        "claim_one_per_migration",
        "migration_id",
        unique=True,
        sqlite_where=text("migration_id IS NOT NULL"),
        postgresql_where=text("migration_id IS NOT NULL"),
    ),
    Index("claim_by_host", "host_id"),
)

claim_cpu = Table(
    "claim_cpu",
    metadata,
    Column("host_id", ForeignKey("host.id"), primary_key=True),
    Column("cpu", Integer, primary_key=True),
    Column("instance_uuid", ForeignKey("instance.uuid", ondelete="CASCADE"), nullable=False),
    Column("role", WORDS, CheckConstraint("role IN ('vcpu', 'sibling', 'emulator')"), nullable=False),
    UniqueConstraint("host_id", "cpu", "instance_uuid", name="claim_cpu_of_instance"),
    Index("claim_cpu_by_instance", "instance_uuid"),
)

claim_cpu_link = Table(
    "claim_cpu_link",
    metadata,
    Column("claim_id", WORDS, primary_key=True),
    Column("host_id", Integer, primary_key=True),
    Column("cpu", Integer, primary_key=True),
    Column("instance_uuid", WORDS, nullable=False),
    ForeignKeyConstraint(
        ["claim_id", "instance_uuid", "host_id"],
        ["claim.id", "claim.instance_uuid", "claim.host_id"],
        name="claim_cpu_link_claim",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["host_id", "cpu", "instance_uuid"],
        ["claim_cpu.host_id", "claim_cpu.cpu", "claim_cpu.instance_uuid"],
        name="claim_cpu_link_cpu",
        ondelete="CASCADE",
    ),
    Index("claim_cpu_link_by_cpu", "host_id", "cpu"),
)

claim_amount = Table(
    "claim_amount",
    metadata,
    Column("claim_id", WORDS, primary_key=True),
    Column("cell", Integer, primary_key=True),
    Column("resource", WORDS, primary_key=True),
    Column("amount", COUNT, CheckConstraint("amount > 0"), nullable=False),
    Column("exact", Boolean, nullable=False),
    Column("host_id", Integer, nullable=False),
    Column("instance_uuid", WORDS, nullable=False),
    ForeignKeyConstraint(
        ["claim_id", "instance_uuid", "host_id"],
        ["claim.id", "claim.instance_uuid", "claim.host_id"],
        name="claim_amount_claim",
        ondelete="CASCADE",
    ),
    Index("claim_amount_by_instance", "instance_uuid", "host_id", "cell", "resource"),
)

#: What can be given to one guest alone: a PCI function (``pci:0000:81:00.1``), a mediated device, a macvtap slot.
device = Table(
    "device",
    metadata,
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("device", WORDS, primary_key=True),
    Column("device_json", WORDS, nullable=False),
)

claim_device = Table(
    "claim_device",
    metadata,
    Column("host_id", ForeignKey("host.id"), primary_key=True),
    Column("device", WORDS, primary_key=True),
    Column("instance_uuid", ForeignKey("instance.uuid", ondelete="CASCADE"), nullable=False),
    UniqueConstraint("host_id", "device", "instance_uuid", name="claim_device_of_instance"),
    Index("claim_device_by_instance", "instance_uuid"),
)

claim_device_link = Table(
    "claim_device_link",
    metadata,
    Column("claim_id", WORDS, primary_key=True),
    Column("host_id", Integer, primary_key=True),
    Column("device", WORDS, primary_key=True),
    Column("instance_uuid", WORDS, nullable=False),
    ForeignKeyConstraint(
        ["claim_id", "instance_uuid", "host_id"],
        ["claim.id", "claim.instance_uuid", "claim.host_id"],
        name="claim_device_link_claim",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["host_id", "device", "instance_uuid"],
        ["claim_device.host_id", "claim_device.device", "claim_device.instance_uuid"],
        name="claim_device_link_device",
        ondelete="CASCADE",
    ),
    Index("claim_device_link_by_device", "host_id", "device"),
)

#: Reality: what a domain is seen to use. No uniqueness of CPUs; refreshed as a whole.
observed_use = Table(
    "observed_use",
    metadata,
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("uuid", WORDS, primary_key=True),
    Column("use_json", WORDS, nullable=False),
)

observed_cpu = Table(
    "observed_cpu",
    metadata,
    Column("host_id", Integer, primary_key=True),
    Column("cpu", Integer, primary_key=True),
    Column("uuid", WORDS, primary_key=True),
    ForeignKeyConstraint(
        ["host_id", "uuid"], ["observed_use.host_id", "observed_use.uuid"], name="observed_cpu_use", ondelete="CASCADE"
    ),
)

#: Host and instance by name and UUID, without references: history outlives both.
migration = Table(
    "migration",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", WORDS, nullable=False, unique=True),
    Column("instance_uuid", WORDS, nullable=False),
    Column("source", WORDS, nullable=False),
    Column("dest", WORDS, nullable=False),
    Column("status", WORDS, CheckConstraint(f"status IN ({words(set(MigrationStatus))})"), nullable=False),
    Column("step", WORDS, nullable=False, default=""),
    Column("reason", WORDS, nullable=False, default=""),
    Column("context_json", WORDS, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("controller", WORDS, nullable=False, default=""),
    Column("abort_requested", Boolean, nullable=False, default=False),
    Column("source_memo_json", WORDS, nullable=False, default="[]"),
    Column(
        "migration_type",
        WORDS,
        CheckConstraint(f"migration_type IN ({words(set(MigrationType))})"),
        nullable=False,
        server_default=str(MigrationType.LIVE_MIGRATION),
    ),
    #: The fencing token: one higher for each controller that takes the migration; a commit names the one it holds.
    Column("token", Integer, nullable=False, server_default="0"),
    #: Until when by the database's clock; past that and the longest call to a host, another may take it.
    Column("lease_until", Float, nullable=False, server_default="0"),
    Column("policy_json", WORDS, nullable=False, server_default="{}"),
    #: How a person wants its end to be forced, "" while nobody does.
    Column("force_complete", WORDS, nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="0"),
    Index(
        "migration_one_in_progress",
        "instance_uuid",
        unique=True,
        sqlite_where=text(f"status IN ({words(IN_PROGRESS)})"),
        postgresql_where=text(f"status IN ({words(IN_PROGRESS)})"),
    ),
    sqlite_autoincrement=True,
)


def moving(row: FromClause = migration) -> ColumnElement[bool]:
    """Tell whether a migration is in progress; written out, for a partial index is used only where its condition is."""
    return row.c.status.in_([literal_column(f"'{status}'") for status in sorted(IN_PROGRESS)])


#: Append-only; one row with a sentence for every transition.
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, default=epoch_now(), nullable=False),
    Column("kind", WORDS, nullable=False),
    Column("sentence", WORDS, nullable=False),
    Column("host", WORDS),
    Column("instance_uuid", WORDS),
    Column("migration_id", Integer),
    #: Known before the transaction: whoever lost the answer to a commit asks by it whether it was done.
    Column("key", WORDS),
    Index("event_key", "key", unique=True),
    Index("event_by_host", "host"),
    Index("event_by_migration", "migration_id"),
    Index("event_by_instance", "instance_uuid"),
    sqlite_autoincrement=True,
)

#: Controllers that run (`numaferry serve`): one session per name, for as long as it renews its lease.
controller = Table(
    "controller",
    metadata,
    Column("name", WORDS, primary_key=True),
    #: ``HOST/BOOT.NAMESPACE:PID:STARTTIME.N``: one run of it; migrations bear this as their `controller`.
    Column("session", WORDS, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
)

finding = Table(
    "finding",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", WORDS, nullable=False),
    Column("severity", WORDS, nullable=False),
    Column("subject", WORDS, nullable=False),
    Column("sentence", WORDS, nullable=False),
    Column("remedy", WORDS, nullable=False),
    Index("finding_by_host", "host_id"),
)

#: Looks at a migration's job, now and then; see `samples`.
migration_sample = Table(
    "migration_sample",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("migration_id", ForeignKey("migration.id"), nullable=False),
    Column("at", Float, nullable=False),
    #: The pass over the memory; it stands in `job_json` too.
    Column("iteration", Integer, nullable=False),
    Column("job_json", WORDS, nullable=False),
    Column("passes_json", WORDS, nullable=False),
    Index("migration_sample_by_migration", "migration_id", "id"),
)


def create_tables(connection: Connection) -> None:
    """Create every table and index in an empty database.

    From a copy: SQLAlchemy notes in a foreign key that it was added by ALTER TABLE, as PostgreSQL has it, and would
    leave it out of every SQLite file that this process makes afterwards.
    """
    fresh = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(fresh)
    fresh.create_all(connection, checkfirst=False)
