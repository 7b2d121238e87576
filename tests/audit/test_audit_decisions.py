"""One test per rule of the audit, each with its opposite, and nova's bugs about audits in the middle of a move."""

import attrs
import pytest

from numaferry.audit.decisions import RULES, find
from numaferry.audit.findings import Severity
from numaferry.audit.views import GuestSeen, HostSeen, LedgerView, Promised, Side
from numaferry.model import (
    CpuSet,
    DomainSeen,
    DomainState,
    HostCell,
    HostConfig,
    HostFacts,
    HostTopology,
    InstanceCell,
    InstanceNumaTopology,
    Ownership,
    PagePool,
    ReservedPages,
    ThreadMasks,
)
from numaferry.request import parse_domain

CONFIG = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7"), cpu_shared_set=CpuSet.parse("0-1"))


def xml(name, pins, pages=0, node=0):
    """A guest with these vcpupins; `pages` huge pages bound to a host node."""
    huge = "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>" if pages else ""
    tune = f"<numatune><memory mode='strict' nodeset='{node}'/></numatune>" if pages else ""
    cputune = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>" for vcpu, cpus in pins.items())
    return (
        f"<domain type='kvm'><name>{name}</name><uuid>u-{name}</uuid>"
        f"<memory unit='KiB'>{max(pages, 32) * 2048}</memory>"
        f"{huge}<vcpu>{max(1, len(pins))}</vcpu><cputune>{cputune}</cputune>{tune}<devices/></domain>"
    )


def guest(name, pins=None, *, masks=None, state="running", pages=0, inactive=None, mark=None):
    """A domain whose kernel masks are what its XML says unless `masks` says otherwise."""
    text = xml(name, pins or {}, pages)
    seen = DomainSeen(f"u-{name}", name, DomainState(state), "", persistent=True, xml=text, ownership=mark)
    cpus = masks or {vcpu: str(mask) for vcpu, mask in (pins or {0: "0-7"}).items()}
    kernel = ThreadMasks(tuple((vcpu, CpuSet.parse(mask)) for vcpu, mask in cpus.items()))
    stored = None if inactive is None else parse_domain(xml(name, inactive))
    return GuestSeen(seen, parse_domain(text), kernel if state == "running" else None, stored)


def topology(pins, pages=0):
    vcpus = CpuSet.of(pins)
    size_kib = 2048 if pages else 4
    cell = InstanceCell(0, vcpus, vcpus, max(pages, 32) * 2048, size_kib, 0, cpu_pinning=tuple(pins.items()))
    return InstanceNumaTopology((cell,))


def promised(name, pins, *, side=Side.CURRENT, pages=0):
    return Promised(f"u-{name}", name, side, topology(pins, pages), claim_id="c")


def view(*claims, moving=(), elsewhere=(), config=CONFIG):
    return LedgerView("alpha", "sim://f/alpha", "L1", config, claims, frozenset(moving), tuple(elsewhere))


def seen(*guests, free=128):
    cell = HostCell(0, CpuSet.parse("0-7"), (), 1 << 20, (PagePool(4, 1 << 18, 1 << 18), PagePool(2048, 128, free)))
    facts = HostFacts("alpha", "h", "sim://f/alpha", HostTopology((cell,)), 9_000_000, 7_002_000)
    return HostSeen(facts, {0: {4: 1 << 18, 2048: free}}, guests)


def kinds(ledger_view, host_seen):
    return [finding.kind for finding in find(ledger_view, host_seen)]


def test_a_host_as_it_was_promised_has_no_finding():
    pins = {0: 2, 1: 3}
    one = guest("db1", pins, pages=32, inactive=pins, mark=Ownership("L1", "c"))
    assert find(view(promised("db1", pins, pages=32)), seen(one, free=96)) == ()


def test_a_domain_without_a_claim_on_dedicated_cpus():
    [finding] = find(view(), seen(guest("noisy", {0: 2, 1: 3})))
    assert finding.kind == "unclaimed-on-dedicated"
    assert finding.sentence == "noisy has no claim on alpha and runs on 2 of its dedicated CPUs (2-3)"
    assert finding.remedy == "numaferry instance adopt noisy"
    assert kinds(view(), seen(guest("shared", {0: "0-1"}))) == []


def test_a_claim_without_a_domain():
    claim = promised("db1", {0: 2})
    [finding] = find(view(claim, elsewhere=[("u-db1", "beta")]), seen())
    assert finding.kind == "claim-without-domain"
    assert "beta was last seen to run it" in finding.sentence


def test_a_shut_off_but_defined_guest_keeps_its_claim_without_a_word():
    assert kinds(view(promised("db1", {0: 2})), seen(guest("db1", {0: 2}, state="shutoff"))) == []


def test_a_domain_on_two_hosts_is_the_worst_there_is():
    ledger_view = view(promised("db1", {0: 2}), elsewhere=[("u-db1", "beta")])
    [finding] = find(ledger_view, seen(guest("db1", {0: 2})))
    assert (finding.kind, finding.severity) == ("domain-on-two-hosts", Severity.ERROR)
    assert kinds(attrs.evolve(ledger_view, moving=frozenset({"u-db1"})), seen(guest("db1", {0: 2}))) == []


def test_pins_are_compared_with_the_kernel_s_masks_not_with_the_xml():
    [finding] = find(view(promised("db1", {0: 2})), seen(guest("db1", {0: 2}, masks={0: "2-3"})))
    assert finding.kind == "pins-differ"
    assert "vCPU 0 on 2-3 instead of 2" in finding.sentence
    assert finding.remedy == "virsh -c sim://f/alpha vcpupin db1 0 2 --live"


def test_two_domains_on_one_cpu_name_both():
    found = find(view(promised("db1", {0: 2})), seen(guest("db1", {0: 2}), guest("noisy", {0: 2})))
    [finding] = [one for one in found if one.kind == "cpu-shared"]
    assert finding.sentence == "db1 and noisy both run on 1 dedicated CPUs of alpha: 2"
    assert finding.remedy == "numaferry migrate db1"
    assert kinds(view(), seen(guest("a", {0: "0-1"}), guest("b", {0: "0-1"}))) == []


def test_a_floating_guest_over_dedicated_cpus_and_how_to_confine_it():
    [finding] = find(view(), seen(guest("web")))
    assert (finding.kind, finding.severity) == ("floating-over-dedicated", Severity.WARNING)
    assert finding.remedy == "virsh -c sim://f/alpha vcpupin web 0 0-1 --live"
    worse = find(view(promised("db1", {0: 2})), seen(guest("web"), guest("db1", {0: 2})))
    assert [(one.kind, one.severity) for one in worse] == [("floating-over-dedicated", Severity.ERROR)]


@pytest.mark.parametrize(("free", "kind"), [(96, []), (90, ["pages-unaccounted"]), (100, ["pages-missing"])])
def test_page_pools_are_held_against_what_the_running_guests_account_for(free, kind):
    assert kinds(view(promised("db1", {0: 2}, pages=32)), seen(guest("db1", {0: 2}, pages=32), free=free)) == kind


def test_reserved_pages_may_be_in_use_or_not():
    config = attrs.evolve(CONFIG, reserved_huge_pages=(ReservedPages(0, 2048, 8),))
    assert kinds(view(config=config), seen(free=120)) == []
    assert kinds(view(config=config), seen(free=128)) == []
    assert kinds(view(config=config), seen(free=119)) == ["pages-unaccounted"]


def test_a_persistent_xml_with_old_pins_would_break_the_promise_at_the_next_start():
    one = guest("db1", {0: 2}, inactive={0: 5})
    [finding] = find(view(promised("db1", {0: 2})), seen(one))
    assert finding.kind == "persistent-pins-differ"
    assert finding.remedy.endswith("vcpupin db1 0 2 --config")


@pytest.mark.parametrize(
    ("live", "stored", "wanted"),
    [("0-1", "2", "2"), ("0-1", "", None), ("2", "2-3", None), ("", "2", None), ("0-7", "", None)],
)
def test_emulator_threads_that_a_move_left_on_its_own_cpus_are_found(live, stored, wanted):
    def pin(cpus):
        return f"<emulatorpin cpuset='{cpus}'/></cputune>" if cpus else "</cputune>"

    text = xml("db1", {0: 2})
    one = guest("db1", {0: 2})
    one = attrs.evolve(
        one,
        needs=parse_domain(text.replace("</cputune>", pin(live))),
        inactive=parse_domain(text.replace("</cputune>", pin(stored))),
    )
    found = find(view(promised("db1", {0: 2})), seen(one))
    assert [finding.kind for finding in found] == (["emulator-left-pinned"] if wanted else [])
    if wanted:
        assert found[0].remedy == f"virsh -c sim://f/alpha emulatorpin db1 {wanted} --live"
    assert kinds(view(promised("db1", {0: 2}), moving={"u-db1"}), seen(one)) == []


def test_another_ledger_s_mark_has_no_automatic_remedy():
    [finding] = find(view(), seen(guest("db9", {0: "0-1"}, mark=Ownership("L2", "c"))))
    assert (finding.kind, finding.remedy) == ("foreign-ledger", "")


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (Ownership("L1", "old"), "claim old, its claim on alpha is c"),
        (Ownership("L1", "c", migration_uuid="m-1"), "migration m-1, which has ended"),
        (Ownership("L1", "c"), None),
    ],
)
def test_a_mark_of_ours_that_is_no_longer_so(mark, words):
    found = find(view(promised("db1", {0: 2})), seen(guest("db1", {0: 2}, mark=mark)))
    assert [one.sentence for one in found] == ([f"db1 bears the mark of {words}"] if words else [])


def test_quarantine_over_full_rows_and_unreadable_domains_are_passed_on():
    ledger_view = attrs.evolve(
        view(), quarantine="cell 1 is gone", overfull=("too much",), unreadable=(("odd", "no XML"),)
    )
    assert kinds(ledger_view, seen()) == ["host-quarantined", "over-full", "unreadable-domain"]


def test_every_rule_has_a_docstring_that_says_what_is_wrong():
    assert all((rule.__doc__ or "").endswith(".") for rule in RULES)


# While a guest moves its two sides are expected to differ from reality, in every order of job, flip and audit.
MOMENTS = {
    "before the job, source": (Side.CURRENT, "running"),
    "job, source paused": (Side.CURRENT, "paused"),
    "switched and not flipped, source": (Side.CURRENT, None),
    "before the job, dest": (Side.INCOMING, None),
    "job, dest receives": (Side.INCOMING, "paused"),
    "switched, dest runs": (Side.INCOMING, "running"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_audit_in_the_middle_of_a_move_is_silent_about_the_guest_that_moves(moment):
    """LP 1894095, 1845146 and 1953359 of nova: such audits dropped, brought back or charged the wrong claim."""
    side, state = MOMENTS[moment]
    there = () if state is None else (guest("db1", {0: 5}, state=state, pages=32),)
    ledger_view = view(
        promised("db1", {0: 2}, side=side, pages=32), moving=["u-db1"], elsewhere=[("u-db1", "the other host")]
    )
    for free in (128, 96, 64):
        assert kinds(ledger_view, seen(*there, free=free)) == []
