"""What has to hold: at every moment of a story, and once everything has ended. Read from the tables, not from the API.

Each check yields sentences about what is wrong; none is what there should be.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from numaferry.model import IN_PROGRESS
from numaferry.virt.simulated.fleet import COUNTS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.ledger import Ledger
    from numaferry.virt.simulated import Fleet

#: Claims of each instance, and how many of them are current.
_CLAIMS = """SELECT i.name, count(c.id) AS claims, coalesce(sum(CASE WHEN c.id = i.current_claim THEN 1 ELSE 0 END), 0)
    AS current_ones FROM instance i LEFT JOIN claim c ON c.instance_uuid = i.uuid GROUP BY i.uuid, i.name"""
#: Claims beside the current one, with the migration that they are for.
_SECOND = """SELECT i.name, m.id, m.status FROM claim c JOIN instance i ON i.uuid = c.instance_uuid
    LEFT JOIN migration m ON m.id = c.migration_id WHERE c.id <> i.current_claim"""
#: Migrations with the claim that was made for each.
_MOVES = """SELECT m.id, m.status, c.id AS claim_id FROM migration m LEFT JOIN claim c ON c.migration_id = m.id"""
_HELD = "SELECT c.instance_uuid, h.name, c.id FROM claim c JOIN host h ON h.id = c.host_id ORDER BY h.name, c.id"
_CPUS = """SELECT c.host_id, c.cpu, count(DISTINCT l.instance_uuid) AS owners, count(l.claim_id) AS links
    FROM claim_cpu c LEFT JOIN claim_cpu_link l ON l.host_id = c.host_id AND l.cpu = c.cpu GROUP BY c.host_id, c.cpu"""
_AMOUNTS = "SELECT host_id, instance_uuid, cell, resource, amount FROM claim_amount"
_CAPACITY = "SELECT host_id, cell, resource, total, allowed, used FROM capacity"
HOST_CELL = -1


def _rows(ledger: Ledger, statement: str) -> list[Any]:
    with ledger._read() as connection:  # noqa: SLF001  (the tables themselves, past every view)
        return list(connection.execute(text(statement)))


def tables(ledger: Ledger, *, lowered: bool = False) -> Iterator[str]:
    """Yield what is wrong in the ledger's tables; with `lowered` limits may have been lowered below what is used."""
    for row in _rows(ledger, _CLAIMS):
        if row.current_ones != 1 or not 1 <= row.claims <= 2:
            yield f"{row.name} has {row.claims} claims, {row.current_ones} of them current"
    for row in _rows(ledger, _SECOND):
        if row.status not in IN_PROGRESS:
            yield f"leaked: {row.name} has a second claim for migration {row.id}, which is {row.status}"
    for row in _rows(ledger, _MOVES):
        if row.status in IN_PROGRESS and row.claim_id is None:
            yield f"migration {row.id} is {row.status} and holds no claim"
    for row in _rows(ledger, _CPUS):
        if row.owners != 1:
            yield f"CPU {row.cpu} of host {row.host_id} is promised to {row.owners} guests"
    yield from _used(ledger, lowered=lowered)


def _used(ledger: Ledger, *, lowered: bool) -> Iterator[str]:
    """Add up what is claimed as the schema charges it: two claims of a guest in one pool count as the larger."""
    largest: dict[tuple[int, str, int, str], int] = defaultdict(int)
    for row in _rows(ledger, _AMOUNTS):
        key = (row.host_id, row.instance_uuid, row.cell, row.resource)
        largest[key] = max(largest[key], row.amount)
    used: dict[tuple[int, int, str], int] = defaultdict(int)
    for (host_id, _, cell, resource), amount in largest.items():
        for at in {cell, HOST_CELL}:
            used[host_id, at, resource] += amount
    for row in _rows(ledger, _CAPACITY):
        where = f"{row.resource} of cell {row.cell} on host {row.host_id}"
        if row.used != used[row.host_id, row.cell, row.resource]:
            yield f"{where}: {row.used} counted as used, claims add up to {used[row.host_id, row.cell, row.resource]}"
        if row.used > max(row.total, row.allowed) and not lowered:
            yield f"{where}: {row.used} promised, {row.total} are there and {row.allowed} allowed"


def claims(ledger: Ledger) -> dict[str, list[tuple[str, str]]]:
    """Return what every instance holds: UUID → (host, claim), ordered."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in _rows(ledger, _HELD):
        found[row.instance_uuid].append((row.name, row.id))
    return found


def reality(fleet: Fleet, ledger: Ledger, excepted: set[str]) -> Iterator[str]:
    """Yield where hosts do what the ledger has not promised; guests of `excepted` are left out."""
    held = claims(ledger)
    for instance in ledger.instances():
        if instance.uuid in excepted:
            continue
        running = set(fleet.running_on(instance.uuid))
        if len(running) > 1:
            yield f"{instance.name} runs on {len(running)} hosts: {', '.join(sorted(running))}"
        if unheld := running - {host for host, _ in held[instance.uuid]}:
            yield f"{instance.name} runs on {', '.join(unheld)} and has no claim there"
        life = fleet.lives[instance.uuid]
        if life.twice_s:
            yield f"{instance.name} ran on two hosts for {life.twice_s:.1f} s"
        if life.starts != 1:
            yield f"{instance.name} was started {life.starts} times"
    yield from _shared_cpus(fleet, excepted)


def _shared_cpus(fleet: Fleet, excepted: set[str]) -> Iterator[str]:
    """Yield CPUs on which the vCPUs of two guests run, by the kernel's masks."""
    for host in fleet.hosts.values():
        if host.ignores_pins:
            continue
        owners: dict[int, str] = {}
        for domain in host.domains.values():
            if not domain.state.active or domain.uuid in excepted:
                continue
            for mask in domain.vcpu_masks.values():
                for cpu in mask:
                    if owners.setdefault(cpu, domain.name) != domain.name:
                        yield f"CPU {cpu} of {host.name} runs {owners[cpu]} and {domain.name}"


def ended(fleet: Fleet, ledger: Ledger, excepted: set[str]) -> Iterator[str]:
    """Yield what is left over once the world is whole and everything was recovered."""
    for migration in ledger.migrations(status=IN_PROGRESS):
        yield f"migration {migration.id} is still {migration.status} at {migration.step!r}: {migration.reason}"
    before = {uuid: fleet.counter(uuid) for uuid in fleet.lives}
    fleet.advance(1)
    counted = {uuid: fleet.counter(uuid) - before[uuid] for uuid in fleet.lives}
    held = claims(ledger)
    for instance in ledger.instances():
        hosts = [host for host, _ in held[instance.uuid]]
        if hosts != [instance.host]:
            yield f"{instance.name} is on {instance.host} by the ledger and holds claims on {hosts}"
        if instance.migration_context is not None:
            yield f"{instance.name} has a migration context left"
        if instance.uuid in excepted:
            continue
        if fleet.running_on(instance.uuid) != (instance.host,):
            where = ", ".join(fleet.running_on(instance.uuid)) or "nowhere"
            yield f"lost: {instance.name} is on {instance.host} by the ledger and runs {where}"
            continue
        if counted[instance.uuid] != COUNTS_PER_S:
            yield f"{instance.name} does not go on: it counted {counted[instance.uuid]} in a second"
        yield from _as_claimed(fleet, ledger, instance)


def _as_claimed(fleet: Fleet, ledger: Ledger, instance: Any) -> Iterator[str]:
    """Yield where a settled guest's threads are not where its claim says."""
    host = fleet.hosts[instance.host]
    if host.ignores_pins or instance.numa_topology is None:
        return
    masks = host.domains[instance.uuid].vcpu_masks
    for vcpu, cpu in instance.numa_topology.cpu_pinning:
        if set(masks[vcpu]) != {cpu}:
            yield f"vCPU {vcpu} of {instance.name} is on {masks[vcpu]}, its claim says {cpu}"
    emulator, own = host.domains[instance.uuid].emulator_mask, {cpu for _, cpu in instance.numa_topology.cpu_pinning}
    # what libvirt refused twice is told, and left to the audit
    told = [event.sentence for event in ledger.events(instance=instance.uuid)]
    refused = any("the emulator's CPUs" in one and "did not work" in one for one in told)
    if set(emulator) != own and not refused:
        yield f"the emulator of {instance.name} is on {emulator} for no migration, its own are {sorted(own)}"
