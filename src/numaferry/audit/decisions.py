"""Where promise and reality disagree on one host: a pure function, one rule per finding.

The audit never makes a claim from what it sees and never drops one: claims belong to adoption and to the engine. So an
audit that runs in the middle of a move, in whatever order with the engine's commits, can't bring a dropped claim back
or take one from a guest that is on its way (what nova's did: Launchpad 1894095, 1845146, 1953359). Guests with a
migration in progress are left out of every rule that compares them with their claim: for them the two sides are
expected to differ.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from numaferry.audit.findings import Finding, Severity
from numaferry.audit.views import Side
from numaferry.migration.pages import pages_claimed
from numaferry.migration.readback import expected_masks
from numaferry.model import METADATA_URI, CpuSet, union

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numaferry.audit.views import GuestSeen, HostSeen, LedgerView, Promised
    from numaferry.migration.pages import PoolKey


def find(view: LedgerView, seen: HostSeen) -> tuple[Finding, ...]:
    """Return every finding of one host, the worst first, otherwise in the order of the rules."""
    order = list(Severity)
    found = [finding for rule in RULES for finding in rule(view, seen)]
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def unclaimed_on_dedicated(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A domain without a claim here is pinned to dedicated CPUs: they are closed, and nobody promised them."""
    for guest in seen.active:
        both = guest.confined(seen.online) & view.config.cpu_dedicated_set
        if both and view.promise_of(guest.uuid) is None and guest.uuid not in view.moving:
            yield Finding(
                "unclaimed-on-dedicated",
                Severity.WARNING,
                view.host,
                guest.name,
                f"{guest.name} has no claim on {view.host} and runs on {len(both)} of its dedicated CPUs ({both})",
                f"numaferry instance adopt {guest.name}",
            )


def claim_without_domain(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A guest is promised CPUs and memory on a host that does not know it."""
    elsewhere = dict(view.elsewhere)
    for promised in _settled(view):
        if seen.guest(promised.uuid) is None:
            other = elsewhere.get(promised.uuid)
            where = f"; {other} was last seen to run it" if other else ""
            yield Finding(
                "claim-without-domain",
                Severity.WARNING,
                view.host,
                promised.name,
                f"{promised.name} holds CPUs {promised.cpus or 'none'} of {view.host} and has no domain there{where}",
                f"numaferry instance show {promised.name}",
            )


def on_two_hosts(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """The same guest is active here and was last seen active on another host, and no migration of ours explains it."""
    elsewhere = dict(view.elsewhere)
    for guest in seen.active:
        if guest.uuid in elsewhere and guest.uuid not in view.moving:
            other = elsewhere[guest.uuid]
            yield Finding(
                "domain-on-two-hosts",
                Severity.ERROR,
                view.host,
                guest.name,
                f"{guest.name} ({guest.uuid}) is {guest.domain.state} on {view.host}, and {other} was last seen to run "
                "it too: if both do, their disks are being destroyed",
                f"numaferry audit {other}",
            )


def pins_differ(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """The kernel runs a vCPU elsewhere than on the CPU that was promised."""
    for promised in _settled(view):
        guest = seen.guest(promised.uuid)
        if guest is None or not guest.active or guest.masks is None:
            continue
        masks = dict(guest.masks.vcpus)
        wrong = [
            (vcpu, wanted, masks.get(vcpu, CpuSet()))
            for vcpu, wanted in sorted(expected_masks(promised.topology).items())
            if masks.get(vcpu) != wanted
        ]
        if wrong:
            words = ", ".join(f"vCPU {vcpu} on {mask or 'nothing'} instead of {wanted}" for vcpu, wanted, mask in wrong)
            yield Finding(
                "pins-differ",
                Severity.ERROR,
                view.host,
                guest.name,
                f"{guest.name}: {len(wrong)} of {len(masks)} vCPUs have another kernel mask than claimed: {words}",
                _vcpupin(view, guest, [(vcpu, wanted) for vcpu, wanted, _ in wrong], "--live"),
            )


def cpu_shared(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """Two running guests are held to the same dedicated CPU."""
    promised = union(one.cpus for one in view.promised)
    exclusive = view.config.cpu_dedicated_set | promised
    for one, two in itertools.combinations(seen.active, 2):
        both = one.confined(seen.online) & two.confined(seen.online) & exclusive
        if both:
            mover = next((g for g in (two, one) if view.promise_of(g.uuid) is not None), None)
            yield Finding(
                "cpu-shared",
                Severity.ERROR,
                view.host,
                f"CPU {both}",
                f"{one.name} and {two.name} both run on {len(both)} dedicated CPUs of {view.host}: {both}",
                f"numaferry migrate {mover.name}" if mover else f"numaferry instance adopt {two.name}",
            )


def floating_over_dedicated(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A guest that nothing confines may run on CPUs that are kept for others."""
    for guest in seen.active:
        if not guest.floats(seen.online) or guest.uuid in view.moving:
            continue
        others = [one for one in view.promised if one.uuid != guest.uuid and one.cpus]
        over = (view.config.cpu_dedicated_set | union(one.cpus for one in others)) & seen.online
        if not over:
            continue
        taken = union(one.cpus for one in others)
        names = f", {len(taken)} of them promised to {', '.join(one.name for one in others)}" if others else ""
        shared = view.config.cpu_shared_set
        pins = [(vcpu, shared) for vcpu in range(guest.needs.online_vcpus)]
        yield Finding(
            "floating-over-dedicated",
            Severity.ERROR if taken else Severity.WARNING,
            view.host,
            guest.name,
            f"{guest.name} may run on all CPUs of {view.host}, {len(over)} of which are dedicated ({over}){names}",
            _vcpupin(view, guest, pins, "--live") if shared else f"numaferry host confirm {view.host}",
        )


def pages_unaccounted(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A pool of huge pages has another number in use than the guests that run there account for."""
    expected, doubtful = _pages_expected(view, seen)
    reserved = {(one.cell, one.size_kib): one.count for one in view.config.reserved_huge_pages}
    for (cell, size_kib), (total, free) in sorted(seen.pools().items()):
        key = (cell, size_kib)
        if key in doubtful:
            continue
        used, known = total - free, expected.get(key, 0)
        subject = f"{size_kib} KiB pages on cell {cell}"
        words = f"{subject} of {view.host}: {used} of {total} are in use, its running guests account for {known}"
        if used > known + reserved.get(key, 0):
            extra = used - known - reserved.get(key, 0)
            keep = f", {reserved[key]} are reserved" if key in reserved else ""
            sentence = f"{words}{keep}: {extra} are used by something that libvirt does not know"
            remedy = f"add to the host's file and import it: reserved_huge_pages = node:{cell},size:{size_kib},count:"
            remedy += str(used - known)
            yield Finding("pages-unaccounted", Severity.WARNING, view.host, subject, sentence, remedy)
        elif used < known:
            sentence = f"{words}: {known - used} pages of a guest are not where they were promised"
            remedy = f"numaferry ledger explain {view.host}"
            yield Finding("pages-missing", Severity.ERROR, view.host, subject, sentence, remedy)


def persistent_pins_differ(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A guest's next start would use other CPUs than it was promised (nova: Launchpad 1890501)."""
    for promised in _settled(view):
        guest = seen.guest(promised.uuid)
        if guest is None or guest.inactive is None:
            continue
        wrong = [
            (vcpu, wanted)
            for vcpu, wanted in sorted(expected_masks(promised.topology).items())
            if guest.inactive.vcpupin(vcpu) != wanted
        ]
        if wrong:
            words = ", ".join(
                f"vCPU {vcpu} to {guest.inactive.vcpupin(vcpu) or 'any CPU'} instead of {wanted}"
                for vcpu, wanted in wrong
            )
            yield Finding(
                "persistent-pins-differ",
                Severity.WARNING,
                view.host,
                guest.name,
                f"the persistent XML of {guest.name} pins {words}: its next start would break the promise",
                _vcpupin(view, guest, wrong, "--config"),
            )


def emulator_left_pinned(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """The emulator threads run where the configuration does not put them: a move could not set them back."""
    for promised in _settled(view):
        guest = seen.guest(promised.uuid)
        if guest is None or not guest.active or guest.inactive is None or guest.needs.emulatorpin is None:
            continue
        now = guest.needs.emulatorpin & seen.online
        wanted = seen.online if guest.inactive.emulator_cpus is None else guest.inactive.emulator_cpus
        if not now <= wanted:
            yield Finding(
                "emulator-left-pinned",
                Severity.WARNING,
                view.host,
                guest.name,
                f"the emulator threads of {guest.name} run on CPUs {now} of {view.host}, its configuration says "
                f"{wanted}",
                f"virsh -c {view.uri} emulatorpin {guest.name} {wanted} --live",
            )


def foreign_ledger(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A domain bears the mark of another ledger: two ledgers promise the same host."""
    for guest in seen.guests:
        mark = guest.domain.ownership
        if mark is not None and mark.ledger_id != view.ledger_id:
            yield Finding(
                "foreign-ledger",
                Severity.ERROR,
                view.host,
                guest.name,
                f"{guest.name} on {view.host} belongs to ledger {mark.ledger_id} (claim {mark.claim_id}), this one is "
                f"{view.ledger_id}: two ledgers promise the same CPUs",
            )


def stale_mark(view: LedgerView, seen: HostSeen) -> Iterator[Finding]:
    """A domain bears this ledger's mark, and what it says is not (or no longer) so."""
    for guest in seen.guests:
        mark = guest.domain.ownership
        if mark is None or mark.ledger_id != view.ledger_id or guest.uuid in view.moving:
            continue
        promised = view.promise_of(guest.uuid)
        if promised is None:
            wrong = f"claim {mark.claim_id}, which this ledger does not have on {view.host}"
        elif mark.claim_id != promised.claim_id:
            wrong = f"claim {mark.claim_id}, its claim on {view.host} is {promised.claim_id}"
        elif mark.migration_uuid:
            wrong = f"migration {mark.migration_uuid}, which has ended"
        else:
            continue
        yield Finding(
            "stale-mark",
            Severity.INFO,
            view.host,
            guest.name,
            f"{guest.name} bears the mark of {wrong}",
            f"virsh -c {view.uri} metadata {guest.name} {METADATA_URI} --remove{_affected(guest)}",
        )


def quarantined(view: LedgerView, _seen: HostSeen) -> Iterator[Finding]:
    """The host is not the machine that was confirmed: other cells, CPUs or another UUID."""
    if view.quarantine:
        yield Finding(
            "host-quarantined",
            Severity.ERROR,
            view.host,
            view.host,
            f"{view.host} is quarantined, nothing new is claimable there: {view.quarantine}",
            f"numaferry host confirm {view.host}",
        )


def overfull(view: LedgerView, _seen: HostSeen) -> Iterator[Finding]:
    """More is promised than there is (now): a limit was lowered under the claims."""
    for sentence in view.overfull:
        yield Finding(
            "over-full", Severity.ERROR, view.host, view.host, sentence, f"numaferry ledger explain {view.host}"
        )


def unreadable(view: LedgerView, _seen: HostSeen) -> Iterator[Finding]:
    """A domain's XML can't be read, so what it uses is not known."""
    for name, error in view.unreadable:
        yield Finding(
            "unreadable-domain",
            Severity.WARNING,
            view.host,
            name,
            f"the XML of {name} on {view.host} can't be read, what it uses is not charged: {error}",
            f"virsh -c {view.uri} dumpxml {name}",
        )


RULES: Final[tuple[Callable[[LedgerView, HostSeen], Iterator[Finding]], ...]] = (
    on_two_hosts,
    foreign_ledger,
    quarantined,
    overfull,
    pins_differ,
    cpu_shared,
    floating_over_dedicated,
    unclaimed_on_dedicated,
    claim_without_domain,
    persistent_pins_differ,
    emulator_left_pinned,
    pages_unaccounted,
    unreadable,
    stale_mark,
)


def _settled(view: LedgerView) -> tuple[Promised, ...]:
    """Return the claims that can be held against reality: of guests that run here and are not being moved."""
    return tuple(one for one in view.promised if one.side is Side.CURRENT and one.uuid not in view.moving)


def _pages_expected(view: LedgerView, seen: HostSeen) -> tuple[dict[PoolKey, int], set[PoolKey]]:
    """Return pages that the running guests account for, and the pools about which nothing can be said.

    A guest on its way may or may not hold its pages yet; one whose XML does not bind them may hold them anywhere.
    """
    expected: dict[PoolKey, int] = {}
    doubtful = {key for one in view.promised if one.uuid in view.moving for key in pages_claimed(one.topology)}
    for guest in seen.active:
        promised = view.promise_of(guest.uuid)
        if promised is not None and promised.topology is not None:
            pages = pages_claimed(promised.topology)
        else:
            use = guest.use(seen.online, managed=False)
            pages = {(cell, size): count for cell, size, count in use.pages}
            doubtful |= {key for key in seen.pools() if not guest.pages_known(key[1], use)}
        for key, count in pages.items():
            expected[key] = expected.get(key, 0) + count
    return expected, doubtful


def _affected(guest: GuestSeen) -> str:
    """Return virsh's flags for whatever there is of a domain."""
    return (" --live" if guest.active else "") + (" --config" if guest.domain.persistent else "")


def _vcpupin(view: LedgerView, guest: GuestSeen, pins: list[tuple[int, CpuSet]], flag: str) -> str:
    """Return the virsh commands that pin these vCPUs."""
    return "; ".join(f"virsh -c {view.uri} vcpupin {guest.name} {vcpu} {cpus} {flag}" for vcpu, cpus in pins)
