"""Schema 2: leases, re-pins, devices that are promised, keys of events.

* `migration` has a type, a fencing token and a lease. One that was made before is a live migration that nobody holds a
  lease of, so any controller may take it.
* It has a policy in place of the limit of its bandwidth.
* `claim` may be there twice for one instance and host: a re-pin.
* `device`, `claim_device`, `claim_device_link`, `controller` and `migration_sample` are new, and empty.
* `event` has a key; events that were written before have none.
* Of a host it is known which other ledgers' guests run there; nothing was noted before.
* The facts of a host say how long it has been up (0 until the next look), and no longer which boot it was.
"""

from __future__ import annotations

import json
from typing import Final

from alembic import op
from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    column,
    select,
    table,
    update,
)

from numaferry.ledger.upgrades import schema_1

WORDS: Final = Text().with_variant(Text(collation="C"), "postgresql")

_POLICY: Final = table("migration", column("id"), column("policy_json"))

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring a ledger from schema 1 to schema 2."""
    with op.batch_alter_table("claim", copy_from=schema_1.claim) as claim:
        claim.drop_constraint("claim_one_per_host", type_="unique")
    op.add_column("host", Column("ledgers_seen_json", WORDS, nullable=False, server_default="[]"))
    op.add_column("host", Column("ledgers_accepted_json", WORDS, nullable=False, server_default="[]"))
    op.add_column("instance", Column("gone_since", Float))
    op.add_column("instance", Column("policy_json", WORDS, nullable=False, server_default='{"said":[]}'))
    _leases()
    op.add_column("event", Column("key", WORDS))
    op.create_index("event_key", "event", ["key"], unique=True)
    op.create_index("event_by_host", "event", ["host"])
    op.create_index("claim_amount_by_instance", "claim_amount", ["instance_uuid", "host_id", "cell", "resource"])
    _devices()
    _samples()
    _forget_boots()


def _leases() -> None:
    """Add what a migration's driver holds, and the table of controllers that run."""
    kinds = CheckConstraint("migration_type IN ('live-migration', 'repin')")
    op.add_column("migration", Column("migration_type", WORDS, kinds, nullable=False, server_default="live-migration"))
    op.add_column("migration", Column("token", Integer, nullable=False, server_default="0"))
    op.add_column("migration", Column("lease_until", Float, nullable=False, server_default="0"))
    _policies()
    op.create_table(
        "controller",
        Column("name", WORDS, primary_key=True),
        Column("session", WORDS, nullable=False),
        Column("started_at", Float, nullable=False),
        Column("lease_until", Float, nullable=False),
    )


def _policies() -> None:
    """Keep how a migration is driven as a whole; schema 1 knew the limit of its bandwidth alone."""
    op.add_column("migration", Column("policy_json", WORDS, nullable=False, server_default="{}"))
    op.add_column("migration", Column("force_complete", WORDS, nullable=False, server_default=""))
    op.add_column("migration", Column("priority", Integer, nullable=False, server_default="0"))
    connection, move = op.get_bind(), schema_1.migration
    for row in connection.execute(select(move.c.id, move.c.bandwidth_mib_s).where(move.c.bandwidth_mib_s > 0)).all():
        policy = json.dumps({"bandwidth_mib_s": row.bandwidth_mib_s}, separators=(",", ":"))
        connection.execute(update(_POLICY).where(_POLICY.c.id == row.id).values(policy_json=policy))
    op.drop_column("migration", "bandwidth_mib_s")


def _devices() -> None:
    """Create the inventory of devices and the claims on it."""
    op.create_table(
        "device",
        Column("host_id", Integer, ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
        Column("device", WORDS, primary_key=True),
        Column("device_json", WORDS, nullable=False),
    )
    op.create_table(
        "claim_device",
        Column("host_id", Integer, ForeignKey("host.id"), primary_key=True),
        Column("device", WORDS, primary_key=True),
        Column("instance_uuid", WORDS, ForeignKey("instance.uuid", ondelete="CASCADE"), nullable=False),
        UniqueConstraint("host_id", "device", "instance_uuid", name="claim_device_of_instance"),
        Index("claim_device_by_instance", "instance_uuid"),
    )
    op.create_table(
        "claim_device_link",
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


def _samples() -> None:
    """Create what is kept of a job's progress."""
    op.create_table(
        "migration_sample",
        Column("id", Integer, primary_key=True),
        Column("migration_id", Integer, ForeignKey("migration.id"), nullable=False),
        Column("at", Float, nullable=False),
        Column("iteration", Integer, nullable=False),
        Column("job_json", WORDS, nullable=False),
        Column("passes_json", WORDS, nullable=False),
        Index("migration_sample_by_migration", "migration_id", "id"),
    )


def _forget_boots() -> None:
    """Take the key `boot_id` out of the hosts' facts: no libvirt told one, and a reader refuses keys it does not know.

    Written in the form of `numaferry.model.codec.dumps`, whatever that may be by the time that this is run.
    """
    connection = op.get_bind()
    host = schema_1.host
    for row in connection.execute(select(host.c.id, host.c.facts_json)).all():
        facts = json.loads(row.facts_json)
        facts.pop("boot_id", None)
        written = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        connection.execute(update(host).where(host.c.id == row.id).values(facts_json=written))
