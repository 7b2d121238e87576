"""Steps after the guest runs on the destination: verify, flip the claim, read back, audit. No way leads back from here.

Only what decides where the guest is may stop them (both hosts have to answer, and the ledger has to flip). Everything
else (a mark that can't be written, a pin that can't be set) is tried again, told, and left to the audit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.errors import HypervisorError, NumaferryError
from numaferry.migration import images
from numaferry.migration.evidence import DestWord, SourceWord, dest_word, source_word, tell
from numaferry.migration.pages import flatten, load_pages
from numaferry.migration.prepare import PAGES_BEFORE
from numaferry.migration.readback import ReadBack, Verdict, disagreements, expected_masks, read_back
from numaferry.model import CpuSet
from numaferry.request import parse_domain
from numaferry.virt.libvirt.domain_xml import emulator_cpus

if TYPE_CHECKING:
    from numaferry.migration.move import Move

_GONE = frozenset({SourceWord.ABSENT, SourceWord.OFF, SourceWord.ENDED})
#: Active, or ended there since: what happened after the switch happened on the destination.
_ARRIVED = frozenset({DestWord.ACTIVE, DestWord.ENDED, DestWord.OFF})


def post_live_migration(move: Move) -> None:
    """Verify on both hosts that the guest is on the destination and gone from the source, then flip the claim.

    Raises HypervisorError with the evidence where it is not so: the caller decides from that.
    """
    source, job, dest = move.look()
    if source_word(source, job, move.migration) not in _GONE or dest_word(dest) not in _ARRIVED:
        evidence = f"{tell('source', move.source.name, source, job)}; {tell('dest', move.dest.name, dest)}"
        raise HypervisorError(f"the guest is not where a finished job leaves it: {evidence}")
    move.tools.ledger.confirm_migration(move.migration.id, token=move.lease.token)
    what = f"unplugging the links on {move.source.name}"
    move.tidy(what, lambda: move.source_host.unplug_vifs(move.original), reach=False)


def post_live_migration_at_destination(move: Move) -> None:
    """Write the final mark, set the emulator's CPUs, read back what the guest has, and mend what can be mended."""
    move.tidy(
        f"marking the guest on {move.dest.name}",
        lambda: move.dest_host.set_ownership(move.uuid, move.mark(move.dest, moving=False)),
    )
    move.tidy("setting the emulator's CPUs", lambda: _settle_emulator(move))
    move.tidy("reading the job's last figures", lambda: _tell_figures(move))
    images.tell_kept(move)
    results = move.tidy("reading back", lambda: _read(move))
    if results is None:
        return
    _tell(move, results)
    if _pins_wrong(results):
        move.tidy("setting the pins to the claim", lambda: _set_pins(move))
        again = move.tidy("reading back", lambda: _read(move))
        if again is not None:
            _tell(move, again)


def update_available_resource(move: Move) -> None:
    """Audit both hosts and tell the findings and what the audit cost; a host that can't be audited is told too."""
    # a re-pin has one host
    for host in dict.fromkeys((move.source.name, move.dest.name)):
        # an audit opens connections of its own, which no lease guards
        move.guard()
        try:
            report = move.tools.audit(host)
        except NumaferryError as error:
            move.commit(f"update_available_resource on {host} did not work: {error.message}")
            continue
        said = "; ".join(finding.sentence for finding in report.findings) or "promise and reality agree"
        words = f"update_available_resource on {host}: {len(report.findings)} findings in {report.cost_ms:.1f} ms"
        move.commit(f"{words}: {said}")


def _read(move: Move) -> tuple[ReadBack, ...]:
    context = move.migration.context
    shared = CpuSet.parse(context.new_cpu_shared_set) if context else CpuSet()
    before = move.memo(PAGES_BEFORE)
    return read_back(
        move.mutated.numa_topology,
        shared,
        move.dest_host.thread_masks(move.uuid),
        None if before is None else load_pages(before),
        flatten(move.dest_host.free_pages()),
    )


def _pins_wrong(results: tuple[ReadBack, ...]) -> bool:
    return any(one.item.startswith("vcpu ") for one in disagreements(results))


def _tell(move: Move, results: tuple[ReadBack, ...]) -> None:
    count = {verdict: sum(one.verdict is verdict for one in results) for verdict in Verdict}
    words = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    move.commit(f"read back on {move.dest.name}: {words}: " + "; ".join(one.sentence for one in results))


def _set_pins(move: Move) -> None:
    """Pin each vCPU to its claim, in the configuration too where there is one."""
    seen = move.dest_host.domain(move.uuid)
    persistent = seen is not None and seen.persistent
    move.dest_host.set_pins(move.uuid, expected_masks(move.mutated.numa_topology), None, persistent=persistent)
    move.commit("the pins were set to the claim")


def _settle_emulator(move: Move) -> None:
    """Set the emulator's CPUs to those of its policy, where it arrived on others (see `emulator_cpus`)."""
    seen = move.dest_host.domain(move.uuid)
    now = parse_domain(seen.xml).emulatorpin if seen and seen.state.active else None
    if now is None:
        return
    cpus = emulator_cpus(move.mutated, dest_facts=move.dest_host.facts(), dest_config=move.dest.config)
    if now != cpus.settled:
        move.dest_host.set_pins(move.uuid, {}, cpus.settled, persistent=False)
        move.commit(f"the emulator's CPUs, {now} for the move, are {cpus.settled} now")


def _tell_figures(move: Move) -> None:
    """Tell what libvirt measured; the destination has the figures of a job that succeeded."""
    job = move.dest_host.completed_job(move.uuid)
    if job is not None:
        mib = job.memory_processed_bytes >> 20
        move.commit(f"libvirt counted {mib} MiB sent in {job.time_elapsed_ms} ms, downtime {job.downtime_ms} ms")
        move.sample(job)
