"""What the audit found on a host, as of its last run: a simple table, replaced as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
from sqlalchemy import delete, insert, select

from numaferry.ledger import schema
from numaferry.ledger.hosts import load_host, load_locked_host
from numaferry.ledger.store import Store, writes

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection


class FindingLike(Protocol):
    """What the ledger stores of a finding."""

    @property
    def kind(self) -> str:
        """Stable word."""
        ...

    @property
    def severity(self) -> str:
        """How bad it is."""
        ...

    @property
    def subject(self) -> str:
        """What it is about: a guest, a CPU, a pool."""
        ...

    @property
    def sentence(self) -> str:
        """What was found, with its numbers."""
        ...

    @property
    def remedy(self) -> str:
        """A command that mends it, or ""."""
        ...


@attrs.frozen(slots=True)
class StoredFinding:
    """A finding as it was recorded; `at` by the database's clock."""

    kind: str
    severity: str
    host: str
    subject: str
    sentence: str
    remedy: str
    at: float


class FindingStore(Store):
    """Findings in the ledger."""

    @writes
    def record_findings(self, connection: Connection, host: str, findings: Collection[FindingLike]) -> None:
        """Replace what is known to be wrong on a host; raises NotFound."""
        host_id = load_locked_host(connection, host).id
        connection.execute(delete(schema.finding).where(schema.finding.c.host_id == host_id))
        for one in findings:
            connection.execute(
                insert(schema.finding).values(
                    host_id=host_id,
                    at=schema.epoch_now(),
                    kind=str(one.kind),
                    severity=str(one.severity),
                    subject=one.subject,
                    sentence=one.sentence,
                    remedy=one.remedy,
                )
            )

    def findings(self, host: str | None = None) -> tuple[StoredFinding, ...]:
        """Return what is known to be wrong on one host (raises NotFound) or on all."""
        table = schema.finding.c
        query = select(schema.finding, schema.host.c.name).join(schema.host).order_by(schema.host.c.name, table.id)
        with self._read() as connection:
            if host is not None:
                query = query.where(table.host_id == load_host(connection, host).id)
            return tuple(
                StoredFinding(row.kind, row.severity, row.name, row.subject, row.sentence, row.remedy, row.at)
                for row in connection.execute(query)
            )
