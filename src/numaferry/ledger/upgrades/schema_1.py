"""The tables of schema 1, the first that was released. Steps know no other form of them, so nothing here is edited.

What they mean is said in `numaferry.ledger.schema`. Triggers are not here: a step runs without any. In PostgreSQL it
was never released; its columns have there the types that schema 2 asks for, so that no step has to change them.
"""

from __future__ import annotations

from typing import Final

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
    text,
)

_IN_PROGRESS: Final = "'accepted', 'error', 'post-migrating', 'preparing', 'queued', 'running'"
_STATUSES: Final = (
    "'accepted', 'cancelled', 'completed', 'error', 'failed', 'post-migrating', 'preparing', 'queued', 'running'"
)

WORDS: Final = Text().with_variant(Text(collation="C"), "postgresql")
COUNT: Final = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

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
    Index("host_machine", "uuid", unique=True, sqlite_where=text("uuid <> ''"), postgresql_where=text("uuid <> ''")),
)
dedicated_cpu = Table(
    "dedicated_cpu",
    metadata,
    Column("host_id", ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("cpu", Integer, primary_key=True),
)
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
    ForeignKeyConstraint(
        ["current_claim", "uuid"],
        ["claim.id", "claim.instance_uuid"],
        name="instance_current_claim",
        deferrable=True,
        initially="DEFERRED",
        use_alter=True,
    ),
)
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
    Column("created_at", Float, nullable=False),
    UniqueConstraint("instance_uuid", "host_id", name="claim_one_per_host"),
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
)
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
migration = Table(
    "migration",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", WORDS, nullable=False, unique=True),
    Column("instance_uuid", WORDS, nullable=False),
    Column("source", WORDS, nullable=False),
    Column("dest", WORDS, nullable=False),
    Column("status", WORDS, CheckConstraint(f"status IN ({_STATUSES})"), nullable=False),
    Column("step", WORDS, nullable=False, default=""),
    Column("reason", WORDS, nullable=False, default=""),
    Column("context_json", WORDS, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("controller", WORDS, nullable=False, default=""),
    Column("abort_requested", Boolean, nullable=False, default=False),
    Column("bandwidth_mib_s", Integer, nullable=False, default=0),
    Column("source_memo_json", WORDS, nullable=False, default="[]"),
    Index(
        "migration_one_in_progress",
        "instance_uuid",
        unique=True,
        sqlite_where=text(f"status IN ({_IN_PROGRESS})"),
        postgresql_where=text(f"status IN ({_IN_PROGRESS})"),
    ),
    sqlite_autoincrement=True,
)
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", WORDS, nullable=False),
    Column("sentence", WORDS, nullable=False),
    Column("host", WORDS),
    Column("instance_uuid", WORDS),
    Column("migration_id", Integer),
    Index("event_by_migration", "migration_id"),
    Index("event_by_instance", "instance_uuid"),
    sqlite_autoincrement=True,
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
