"""The ledger: hosts, claims, migrations and their history in one database, whose schema keeps the promises.

Choosing a destination and claiming its exact resources are one transaction here; everything before is computation on
a snapshot, everything after is work that the ledger already allows.
"""

from __future__ import annotations

from numaferry.ledger.amounts import move_request
from numaferry.ledger.choice import Fit
from numaferry.ledger.claims import ClaimStore, InstanceClaim, MoveClaim
from numaferry.ledger.controllers import ControllerRecord, ControllerStore
from numaferry.ledger.copying import CopyStore
from numaferry.ledger.devices import DeviceStore
from numaferry.ledger.engine import open_engines
from numaferry.ledger.events import Event, EventStore
from numaferry.ledger.findings import FindingStore, StoredFinding
from numaferry.ledger.flip import FlipStore
from numaferry.ledger.hosts import HostRecord, HostStore
from numaferry.ledger.instances import InstanceStore
from numaferry.ledger.leases import LeaseStore
from numaferry.ledger.location import ledger_location
from numaferry.ledger.migrations import MigrationStore
from numaferry.ledger.moves import Links, MoveStore
from numaferry.ledger.observed import ObservedStore
from numaferry.ledger.queue import QueueStore
from numaferry.ledger.samples import Sample, SampleStore
from numaferry.ledger.views import HostView, Overfull, ViewStore
from numaferry.model import ObservedUse

__all__ = [
    "ControllerRecord",
    "Event",
    "Fit",
    "HostRecord",
    "HostView",
    "InstanceClaim",
    "Ledger",
    "Links",
    "MoveClaim",
    "ObservedUse",
    "Overfull",
    "Sample",
    "StoredFinding",
    "move_request",
    "open_ledger",
]


class Ledger(
    HostStore,
    ObservedStore,
    InstanceStore,
    ClaimStore,
    MoveStore,
    FlipStore,
    MigrationStore,
    LeaseStore,
    QueueStore,
    ControllerStore,
    DeviceStore,
    EventStore,
    SampleStore,
    FindingStore,
    ViewStore,
    CopyStore,
):
    """One open ledger. Safe to use from several threads; every method is one transaction.

    Any method may raise LedgerUnusable (locked, read-only, disk full, ...; the hint says what to do).
    """


def open_ledger(url: str | None = None) -> Ledger:
    """Open the ledger and create it where there is none.

    `url` is a path, ``sqlite:///PATH`` or ``postgresql://USER@SERVER/DATABASE``; without it NUMAFERRY_DB, else
    ``$XDG_STATE_HOME/numaferry/ledger.sqlite``. Raises LedgerUnusable for a ledger of another version, a locked,
    read-only, damaged or unreachable database, or another's.
    """
    where = ledger_location(url)
    return Ledger(*open_engines(where), where)
