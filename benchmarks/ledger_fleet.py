"""What `make bench-ledger` claims on: a fleet in a ledger, a table for bare commits, and the check of all promises."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING

from sqlalchemy import text

from numaferry.ledger.engine import open_engines
from numaferry.ledger.location import ledger_location
from numaferry.model import CpuSet, Flavor, HostConfig, HostFacts, Instance
from numaferry.model.notation import parse_topology
from numaferry.request import numa_get_constraints

if TYPE_CHECKING:
    from numaferry.ledger import Ledger

HOSTS = 16
#: Others that are in the ledger and have no part in it.
BYSTANDERS, GUESTS_EACH = 64, 3
SMALL = "2 cells x 16 cores x 2 threads, 65536M, 2M:16384"
#: The host that everybody wants: room for all clients at once.
LARGE = "2 cells x 96 cores x 2 threads, 262144M, 2M:65536"
POPULAR = "popular"
LIBVIRT, QEMU = 9_000_000, 7_002_000
GUEST = Flavor(
    "bench", 16, 8192, (("hw:cpu_policy", "dedicated"), ("hw:mem_page_size", "2048"), ("hw:numa_nodes", "2"))
)

#: What must hold of any ledger, as queries that find a breach; SQLite and PostgreSQL read them alike.
BREACHES = {
    "CPU promised to two guests": """
        SELECT host_id, cpu FROM claim_cpu_link GROUP BY host_id, cpu HAVING count(DISTINCT instance_uuid) > 1""",
    "CPU held by another than its claim says": """
        SELECT link.host_id, link.cpu FROM claim_cpu_link AS link LEFT JOIN claim_cpu AS held
        ON held.host_id = link.host_id AND held.cpu = link.cpu AND held.instance_uuid = link.instance_uuid
        WHERE held.cpu IS NULL""",
    "CPU kept by nobody's claim": """
        SELECT held.host_id, held.cpu FROM claim_cpu AS held LEFT JOIN claim_cpu_link AS link
        ON held.host_id = link.host_id AND held.cpu = link.cpu WHERE link.cpu IS NULL""",
    "pages or memory promised beyond the limit, or counted wrongly": """
        SELECT pool.host_id, pool.cell FROM capacity AS pool LEFT JOIN claim_amount AS taken
        ON taken.host_id = pool.host_id AND taken.cell = pool.cell AND taken.resource = pool.resource
        WHERE pool.cell >= 0 GROUP BY pool.host_id, pool.cell, pool.resource, pool.used, pool.total
        HAVING pool.used <> coalesce(sum(taken.amount), 0) OR pool.used > pool.total""",
    "guest without its claims": """
        SELECT uuid FROM instance WHERE (SELECT count(*) FROM claim WHERE claim.instance_uuid = instance.uuid)
        <> CASE WHEN name LIKE 'guest%' THEN 2 ELSE 1 END""",
}


def host_names() -> list[str]:
    """Return the names of the small hosts."""
    return [f"host{number:02}" for number in range(HOSTS)]


def fill(ledger: Ledger, guests: int) -> list[str]:
    """Add the hosts and one guest per client, each on a host of its own; return the guests' UUIDs."""
    for name in host_names():
        _add_host(ledger, name, SMALL)
    _add_host(ledger, POPULAR, LARGE)
    for number in range(BYSTANDERS):
        _add_host(ledger, f"other{number:02}", SMALL)
        for guest in range(GUESTS_EACH):
            _place(ledger, f"other{number:02}-{guest}", f"other{number:02}")
    homes = itertools.cycle(host_names())
    return [_place(ledger, f"guest{number:02}", host) for number, host in zip(range(guests), homes, strict=False)]


def _place(ledger: Ledger, name: str, host: str) -> str:
    guest = Instance(str(uuid.uuid4()), name, host, GUEST, numa_get_constraints(GUEST))
    return ledger.place_instance(guest, [host]).instance.uuid


def _add_host(ledger: Ledger, name: str, notation: str) -> None:
    topology = parse_topology(notation)
    shared = CpuSet.parse("0-1")
    facts = HostFacts(name, f"uuid-of-{name}", f"test:///{name}", topology, LIBVIRT, QEMU)
    config = HostConfig(cpu_dedicated_set=topology.cpus - shared, cpu_shared_set=shared)
    ledger.add_host(name, facts, config, confirmed=True)


def add_bare_table(url: str, clients: int) -> None:
    """Add the table whose rows the bare loop updates, one row per client: same database, same engine."""
    engine, _ = open_engines(ledger_location(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bare (client INTEGER PRIMARY KEY, number INTEGER NOT NULL)"))
        rows = [{"client": client} for client in range(clients)]
        connection.execute(text("INSERT INTO bare VALUES (:client, 0)"), rows)
    engine.dispose()


def breaches(url: str) -> dict[str, int]:
    """Return how often each rule is broken in a ledger in which every client keeps a claim."""
    engine, _ = open_engines(ledger_location(url))
    with engine.begin() as connection:
        found = {name: len(connection.execute(text(query)).all()) for name, query in BREACHES.items()}
    engine.dispose()
    return found


def overlaps(ledger: Ledger) -> tuple[int, int]:
    """Return how many move claims the ledger's history has, and how many pairs held one CPU at the same time.

    A claim is held at least from the migration's row being written until it is ended, by the database's clock.
    """
    moves = ledger.migrations()
    held: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for move in moves:
        topology = move.context.new_numa_topology if move.context else None
        if topology is None:
            raise RuntimeError(f"migration {move.id} claimed no CPUs")
        until = float("inf") if move.in_progress else move.updated_at
        for cpu in topology.owned_cpus:
            held.setdefault((move.dest, cpu), []).append((move.created_at, until))
    pairs = 0
    for spans in held.values():
        spans.sort()
        pairs += sum(after[0] < before[1] for before, after in itertools.pairwise(spans))
    return len(moves), pairs
