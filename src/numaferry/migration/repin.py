"""A re-pin: a running guest gets other CPUs of the host that it runs on, through the same fit, claim and ledger.

Old and new are held from the claim on, so that no CPU is another's at any moment: first the claim adds what is new,
then the threads are pinned to it, then the flip drops the rest. Memory does not follow (libvirt changes no strict node
set of a running guest), so each guest cell stays on its host cell. Until the flip everything can be undone by setting
the old pins again; each part may run twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import (
    CheckFailed,
    Conflict,
    HostUnreachable,
    HypervisorError,
    LedgerError,
    MigrationFailed,
    NeedsPerson,
    NotFound,
    TakenOver,
)
from numaferry.fit import numa_fit_instance_to_host
from numaferry.migration.finish import update_available_resource
from numaferry.migration.readback import expected_masks
from numaferry.migration.states import Event, next_status
from numaferry.model import CpuSet, MigrationStatus, Misfit
from numaferry.virt.libvirt.domain_xml import emulator_cpus

if TYPE_CHECKING:
    from numaferry.ledger import Fit
    from numaferry.migration.move import Move, Tools
    from numaferry.model import HostState, Instance, Migration, NumaRequest, Placement

#: Steps of a re-pin, as its row names them.
CHECK, SET_PINS, CONFIRM = "check_repin", "set_pins", "confirm_repin"


def staying(instance: Instance, avoid: CpuSet) -> Fit:
    """Return the fit for a re-pin: every guest cell stays on its host cell, and no CPU of `avoid` is chosen. Pure."""
    now = {cell.id: cell.host_cell for cell in (instance.numa_topology.cells if instance.numa_topology else ())}

    def fit(host: HostState, request: NumaRequest) -> Placement | Misfit:
        cells = tuple(
            attrs.evolve(cell, dedicated=cell.dedicated - avoid) for cell in host.cells if cell.id in now.values()
        )
        answer = numa_fit_instance_to_host(attrs.evolve(host, cells=cells), request)
        if isinstance(answer, Misfit) or answer.numa_topology is None:
            return answer
        swapped = [cell.id for cell in answer.numa_topology.cells if now[cell.id] != cell.host_cell]
        if swapped:
            return Misfit(host.name, f"guest cell {swapped[0]} would change its host cell, and its memory can't follow")
        return answer

    return fit


def claim(tools: Tools, instance: Instance, avoid: CpuSet) -> Migration:
    """Claim other CPUs beside the present ones; returns the accepted migration. Raises Conflict, NoFit, NotFound."""
    if instance.numa_topology is None or not instance.numa_topology.cpu_pinning:
        raise Conflict(
            f"{instance.name} has no CPUs of its own: there is nothing to re-pin",
            hint=f"numaferry instance show {instance.name}",
        )
    made = tools.ledger.repin_claim(
        instance.uuid,
        fit=staying(instance, avoid),
        controller=tools.controller,
        lease_s=tools.lease.ttl_s,
    )
    return made.migration


def drive(move: Move) -> Migration:
    """Check, pin, flip; returns the migration as completed or cancelled. Raises MigrationFailed after an undo."""
    try:
        _check(move)
        _set_pins(move)
    except (LedgerError, TakenOver, HostUnreachable):
        # nothing can be written, it is no longer ours, or what was set is not known: who recovers it looks again
        raise
    except Exception as error:  # noqa: BLE001  (an unforeseen error must not leave a claim behind either)
        move.commit(f"{move.migration.step} failed: {error}")
        return _undo(move, error)
    if move.migration.abort_requested:
        return _undo(move, None)
    return _finish(move)


def recover(move: Move) -> Migration:
    """Finish a re-pin whose flip was begun, undo any other; returns it as it ended.

    Raises HostUnreachable while the host is silent, and NeedsPerson where its old pins can't be set again.
    """
    if move.migration.status is MigrationStatus.POST_MIGRATING:
        return _finish(move)
    return _undo(move, None)


def _check(move: Move) -> None:
    name, host = move.instance.name, move.source.name
    move.commit(f"checking {name} on {host}", step=CHECK, event=Event.PREPARE)
    seen, job = move.source_host.domain(move.uuid), move.source_host.job(move.uuid)
    if seen is None or not seen.state.active:
        raise CheckFailed(f"{name} does not run on {host}", hint=f"numaferry audit {host}")
    if job is not None and not job.completed:
        raise CheckFailed(f"{name} is under a job of libvirt's on {host}", hint="try again when it has ended")


def _set_pins(move: Move) -> None:
    """Pin to the new claim and read the kernel's masks back; raises HypervisorError where they are others."""
    cpus = move.mutated.numa_topology
    words = f"pinning {move.instance.name} to CPUs {cpus.owned_cpus if cpus else ''}"
    move.commit(words, step=SET_PINS, event=Event.START)
    _pin(move, move.mutated)
    wanted, seen = expected_masks(cpus), dict(move.source_host.thread_masks(move.uuid).vcpus)
    wrong = [vcpu for vcpu, mask in wanted.items() if seen.get(vcpu) != mask]
    if wrong:
        raise HypervisorError(
            f"vCPU {wrong[0]} is on {seen.get(wrong[0])} by the kernel's mask, not on {wanted[wrong[0]]}",
            hint="the old pins are set again",
        )


def _pin(move: Move, instance: Instance) -> None:
    """Set the pins that an instance's topology says, live and in the configuration where there is one."""
    seen = move.source_host.domain(move.uuid)
    if seen is None:
        raise NotFound(f"{instance.name} is gone from {move.source.name}", hint=f"numaferry audit {move.source.name}")
    emulator = emulator_cpus(instance, dest_facts=move.source_host.facts(), dest_config=move.source.config).settled
    move.source_host.set_pins(move.uuid, expected_masks(instance.numa_topology), emulator, persistent=seen.persistent)


def _finish(move: Move) -> Migration:
    name, host = move.instance.name, move.source.name
    if move.migration.status is not MigrationStatus.POST_MIGRATING:
        move.commit(f"{name} is pinned anew on {host}: flipping the claim", step=CONFIRM, event=Event.SWITCH)
    move.tools.ledger.confirm_migration(move.migration.id, token=move.lease.token)
    mark = move.mark(move.source, moving=False)
    move.tidy(f"marking the guest on {host}", lambda: move.source_host.set_ownership(move.uuid, mark), reach=False)
    update_available_resource(move)
    move.commit(f"{name} has other CPUs on {host}", event=Event.COMPLETE, reason="")
    return move.migration


def _undo(move: Move, error: Exception | None) -> Migration:
    """Set the old pins and drop what was added; returns the migration, or raises MigrationFailed for an error."""
    aborted = move.migration.abort_requested
    why = "aborted on request" if aborted else f"rolled back: {error}" if error else "rolled back after a take-over"
    move.commit(f"setting the old pins of {move.instance.name} again", step="undo_set_pins")
    try:
        _pin(move, move.original)
    except NotFound as gone:
        move.commit(f"there is nothing to pin: {gone.message}")
    except HypervisorError as refused:
        _call_person(move, refused)
    status = next_status(move.migration.status, Event.CANCEL if aborted else Event.FAIL)
    dropped = move.tools.ledger.drop_move_claim(move.migration.id, status, why, token=move.lease.token)
    move.migration = dropped or move.migration
    move.tools.on_progress(move.migration, None)
    update_available_resource(move)
    if error is None or aborted:
        return move.migration
    raise MigrationFailed(
        f"re-pin {move.migration.id} of {move.instance.name} failed and was rolled back: {error}",
        hint=f"what happened step by step: numaferry migration show {move.migration.id}",
    ) from error


def _call_person(move: Move, refused: HypervisorError) -> None:
    """Leave both claims held: on which CPUs the guest runs is not what either says alone."""
    sentence = f"the old pins of {move.instance.name} can't be set again: {refused.message}"
    if move.migration.status is not MigrationStatus.ERROR:
        move.commit(sentence, event=Event.PUZZLE, reason=sentence)
    raise NeedsPerson(
        f"re-pin {move.migration.id}: {sentence}; both sets of CPUs stay its own",
        hint=f"when libvirt on {move.source.name} takes pins again: numaferry migration recover {move.migration.id}",
    )
