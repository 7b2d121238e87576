"""Where the threads of a migration itself run on the source, and what they take where nothing keeps them apart.

QEMU's main loop creates the threads that carry a migration (`live_migration`, `multifdsend_N`, `return path`; qemu
migration/migration.c, migration/multifd.c), and a thread is born with the CPUs of the one that creates it
(sched_setaffinity(2)). So pinning the emulator before the job keeps all of them on these CPUs; libvirt changes nothing
of a guest while its job runs. The old mask is in the ledger before it is changed. On the destination the domain XML
says the same (`virt.libvirt.domain_xml.emulator_cpus`), until the guest runs there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.model import EMPTY, CpuSet, PostCopy, XmlKind
from numaferry.request import parse_domain
from numaferry.virt.libvirt.domain_xml import emulator_cpus

if TYPE_CHECKING:
    from numaferry.migration.move import Move
    from numaferry.model import HostConfig, HostFacts, Instance, InstanceNumaTopology, MigrationPolicy
    from numaferry.request import DomainNeeds

#: The memo's key of the CPUs that the source's emulator threads had before the move.
EMULATOR = "source_emulator"


@attrs.frozen(slots=True)
class Placing:
    """Where the emulator threads run now, where they are pinned for the job (empty: they stay), and why, in words."""

    now: CpuSet
    pin: CpuSet
    #: "" where there is nothing to tell: they are on the right CPUs anyhow.
    sentence: str


def place_threads(
    needs: DomainNeeds,
    topology: InstanceNumaTopology | None,
    policy: MigrationPolicy,
    *,
    host: str,
    config: HostConfig,
    online: CpuSet,
) -> Placing:
    """Return where a migration's threads run on the source; pure. `online` are the host's CPUs.

    Emulator threads with a CPU of their own (policy `isolate`) keep it: nobody else runs there. Where the host has
    no CPUs for migrations, what they take of dedicated ones is estimated.
    """
    now = (online if needs.emulator_cpus is None else needs.emulator_cpus) & online
    isolated = topology.isolated_cpus if topology else EMPTY
    allowed = config.migration_cpus & online
    if isolated and now <= isolated:
        words = f"the migration's threads run on CPU {isolated} of {host}, which {needs.name}'s emulator threads own"
        return Placing(now, EMPTY, words)
    if not allowed:
        return Placing(now, EMPTY, _steal(now & config.cpu_dedicated_set, topology, policy, host))
    if now <= allowed:
        return Placing(now, EMPTY, "")
    words = (
        f"for the move the emulator threads of {needs.name} on {host} go from CPUs {now} to {allowed}: its threads "
        "take nothing of dedicated CPUs"
    )
    return Placing(now, allowed, words)


def steal_on_arrival(
    instance: Instance, policy: MigrationPolicy, *, host: str, facts: HostFacts, config: HostConfig
) -> str:
    """Estimate what the threads that receive a mutated instance take of dedicated CPUs; "" for nothing; pure.

    On CPUs of its own nobody runs until the switch, unless the switch is by post-copy.
    """
    topology = instance.numa_topology
    taken = emulator_cpus(instance, dest_facts=facts, dest_config=config).arriving & config.cpu_dedicated_set
    isolated, own = (topology.isolated_cpus, topology.owned_cpus) if topology else (EMPTY, EMPTY)
    taken -= isolated if policy.post_copy is not PostCopy.NEVER else own
    return _steal(taken, topology, policy, host)


def _steal(taken: CpuSet, topology: InstanceNumaTopology | None, policy: MigrationPolicy, host: str) -> str:
    """Estimate what a move's threads take of these CPUs, each of them busy all the time at full speed."""
    if not taken:
        return ""
    # migration/multifd.c: one that scans and sends, and one for each connection
    threads = 1 + policy.parallel_connections
    share = min(100, 100 * threads // len(taken))
    own = topology.owned_cpus if topology else EMPTY
    whose = "the guest's own" if taken <= own else "not all of them the guest's own"
    return (
        f"{host} has neither migration_cpu_set nor cpu_shared_set: the move's threads ({threads}) take up to {share} % "
        f"of its dedicated CPUs {taken}, {whose}, until it has ended"
    )


def keep_off_dedicated(move: Move) -> None:
    """Pin the source's emulator threads for the job, the old mask noted first; or tell what the job takes."""
    needs = parse_domain(move.source_host.domain_xml(move.uuid, XmlKind.LIVE))
    online = move.source_host.facts().topology.cpus
    placing = place_threads(
        needs,
        move.original.numa_topology,
        move.migration.policy,
        host=move.source.name,
        config=move.source.config,
        online=online,
    )
    arrival = steal_on_arrival(
        move.mutated, move.migration.policy, host=move.dest.name, facts=move.dest.facts, config=move.dest.config
    )
    if arrival:
        move.commit(arrival)
    if not placing.sentence:
        return
    # what was noted once is what was there before the move
    note = bool(placing.pin) and move.memo(EMULATOR) is None
    move.commit(placing.sentence, memo={EMULATOR: str(placing.now)} if note else None)
    if placing.pin:
        move.source_host.set_pins(move.uuid, {}, placing.pin, persistent=False)


def restore(move: Move) -> None:
    """Give the source's emulator threads the CPUs back that they had before the move; nothing where none were taken."""
    text = move.memo(EMULATOR)
    if text is None:
        return
    cpus = CpuSet.parse(text)
    what = f"setting the emulator's CPUs on {move.source.name} to {cpus} again"
    move.tidy(what, lambda: move.source_host.set_pins(move.uuid, {}, cpus, persistent=False))
