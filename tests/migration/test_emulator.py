"""Where a migration's own threads run: off dedicated CPUs while it lasts; and the emulator's CPUs after it."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import MigrationFailed
from numaferry.migration.emulator import EMULATOR, place_threads, steal_on_arrival
from numaferry.model import (
    CpuSet,
    HostConfig,
    HostFacts,
    Instance,
    InstanceNumaTopology,
    MigrationPolicy,
    MigrationStatus,
    PostCopy,
)
from numaferry.model.notation import parse_topology
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt
from numaferry.virt.simulated.faults import ClientDied
from numaferry.virt.simulated.job import Phase

cpus = CpuSet.parse
ONLINE = cpus("0-15")
SETS = HostConfig(cpu_dedicated_set=cpus("2-15"), cpu_shared_set=cpus("0-1"))
NO_SETS = HostConfig(cpu_dedicated_set=cpus("2-15"))
ISOLATED = InstanceNumaTopology((), "isolate", cpus("7"))


def placed(emulator, *, config=SETS, topology=None, parallel=0):
    """Where the threads of a guest go whose XML has this emulator pin, "" for none."""
    pin = f"<cputune><emulatorpin cpuset='{emulator}'/></cputune>" if emulator else ""
    xml = f"<domain type='kvm'><name>db1</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>{pin}</domain>"
    policy = MigrationPolicy(parallel_connections=parallel)
    return place_threads(parse_domain(xml), topology, policy, host="alpha", config=config, online=ONLINE)


@pytest.mark.parametrize(
    ("emulator", "now"), [("2,4", "2,4"), ("0,4", "0,4"), ("", "0-15")], ids=["dedicated", "partly", "anywhere"]
)
def test_threads_that_may_run_on_dedicated_cpus_are_pinned_to_those_for_migrations(emulator, now):
    placing = placed(emulator)
    assert (str(placing.now), str(placing.pin)) == (now, "0-1")
    assert f"for the move the emulator threads of db1 on alpha go from CPUs {now} to 0-1" in placing.sentence
    assert str(placed(emulator, config=attrs.evolve(SETS, migration_cpu_set=cpus("1"))).pin) == "1"


def test_threads_that_are_there_already_are_left_alone():
    placing = placed("0")
    assert (placing.pin, placing.sentence) == (CpuSet(), "")
    assert str(placed("0", config=attrs.evolve(SETS, migration_cpu_set=cpus("1"))).pin) == "1"


def test_a_cpu_that_the_emulator_threads_own_is_theirs_also_while_it_moves():
    placing = placed("7", topology=ISOLATED)
    assert not placing.pin
    assert "run on CPU 7 of alpha, which db1's emulator threads own" in placing.sentence
    assert str(placed("2,7", topology=ISOLATED).pin) == "0-1", "not only on its own"


@pytest.mark.parametrize(
    ("emulator", "parallel", "said"),
    [
        ("2,4,8,10", 0, "threads (1) take up to 25 % of its dedicated CPUs 2,4,8,10"),
        ("2,4,8,10", 2, "threads (3) take up to 75 %"),
        ("2", 8, "threads (9) take up to 100 %"),
        ("", 0, "take up to 7 % of its dedicated CPUs 2-15, not all of them the guest's own"),
    ],
)
def test_without_cpus_for_migrations_nothing_is_pinned_and_the_steal_is_estimated(emulator, parallel, said):
    placing = placed(emulator, config=NO_SETS, parallel=parallel)
    assert not placing.pin
    assert said in placing.sentence
    assert "alpha has neither migration_cpu_set nor cpu_shared_set" in placing.sentence
    assert placed("0-1", config=NO_SETS).sentence == "", "no dedicated CPU is taken from"


def test_a_guest_that_arrives_takes_from_dedicated_cpus_only_where_nothing_keeps_it_off_them():
    facts = HostFacts("beta", "u", "test:///b", parse_topology("2 cells x 4 cores x 2 threads, 1G"), 9000000, 7002000)
    floats = Instance("u", "web", "alpha", None, None, None)

    def said(config, policy=MigrationPolicy()):  # noqa: B008  (it is frozen)
        return steal_on_arrival(floats, policy, host="beta", facts=facts, config=config)

    assert "threads (1) take up to 7 % of its dedicated CPUs 2-15" in said(NO_SETS)
    assert said(SETS) == ""
    assert said(attrs.evolve(NO_SETS, migration_cpu_set=cpus("0"))) == ""
    assert said(SETS, MigrationPolicy(post_copy=PostCopy.AUTOMATIC)) == ""


# --- a simulated fleet -------------------------------------------------------------------------------------------


def masks_while_it_copies(site, uuid):
    """Collect the emulator's masks on both hosts at every tick of the copy."""
    seen = {"alpha": set(), "beta": set()}

    def look(fleet):
        job = fleet.jobs.get(uuid)
        if job is not None and job.phase in {Phase.PERFORM, Phase.FINISH}:
            for host, masks in seen.items():
                masks.add(str(fleet.hosts[host].domains[uuid].emulator_mask))

    site.fleet.observe(look)
    return seen


def moved(site, policy=None, **more):
    engine = site.engine(**more)
    return engine.drive(engine.start(site.ledger.instance("db1"), "beta", policy).id)


def set_all(site, **words):
    for host in ("alpha", "beta"):
        site.ledger.confirm_host(host, attrs.evolve(site.ledger.host(host).config, **words))


def test_a_copy_runs_on_neither_hosts_dedicated_cpus_but_its_own_where_its_pages_lie(site):
    """Huge pages on cell 1, where no CPU for migrations is, need a CPU there when QEMU starts: one of the guest's."""
    uuid = site.guest()
    seen = masks_while_it_copies(site, uuid)
    assert moved(site).status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)
    [settled] = {str(site.emulator(uuid))}
    assert seen == {"alpha": {"0-1"}, "beta": {"0-1,8-9"}}
    assert settled == "2-3,8-9", "its own CPUs, as without a policy"
    assert "the emulator's CPUs, 0-1,8-9 for the move, are 2-3,8-9 now" in site.sentences()
    stored = parse_domain(site.fleet.hosts["beta"].domains[uuid].persistent)
    assert str(stored.emulatorpin) == "2-3,8-9", "its next start is no migration"


def test_the_set_of_each_host_is_taken_where_it_is_named(site):
    uuid = site.guest()
    set_all(site, migration_cpu_set=cpus("1"))
    seen = masks_while_it_copies(site, uuid)
    moved(site)
    site.settled(uuid, moved=True)
    assert seen == {"alpha": {"1"}, "beta": {"1,8-9"}}


def test_without_such_cpus_nothing_is_pinned_and_the_history_says_what_it_took(site):
    uuid = site.guest()
    set_all(site, cpu_shared_set=CpuSet())
    seen = masks_while_it_copies(site, uuid)
    moved(site, MigrationPolicy(parallel_connections=2))
    site.settled(uuid, moved=True)
    assert seen["alpha"] == {"2,4,8,10"}
    [said] = [one for one in site.sentences() if "the move's threads" in one]
    assert "(3) take up to 75 % of its dedicated CPUs 2,4,8,10, the guest's own" in said
    assert site.ledger.migration(1).source_memo
    assert EMULATOR not in dict(site.ledger.migration(1).source_memo)


def test_after_an_abort_the_emulator_is_where_it_was(site):
    uuid = site.guest()
    site.fleet.inject_named("aborted")
    with pytest.raises(MigrationFailed):
        moved(site)
    assert dict(site.ledger.migration(1).source_memo)[EMULATOR] == "2,4,8,10"
    site.settled(uuid, moved=False)
    assert str(site.emulator(uuid)) == "2,4,8,10"


@pytest.mark.parametrize("edge", ["call", "return"])
def test_a_controller_that_dies_at_the_pin_is_followed_by_one_that_knows_the_old_mask(site, edge):
    uuid = site.guest()
    site.fleet.inject(f"{edge}.set_pins", "client-dies")
    with pytest.raises(ClientDied):
        moved(site)
    assert str(site.emulator(uuid)) == ("2,4,8,10" if edge == "call" else "0-1")
    assert site.recover(1).status is MigrationStatus.FAILED
    site.settled(uuid, moved=False)
    assert str(site.emulator(uuid)) == "2,4,8,10"


def test_a_guest_that_cannot_be_pinned_is_not_moved_at_the_expense_of_others(site):
    uuid = site.guest()
    site.fleet.inject("call.set_pins", "refuse")
    with pytest.raises(MigrationFailed, match=r"refused at call\.set_pins"):
        moved(site)
    site.settled(uuid, moved=False)
    assert str(site.emulator(uuid)) == "2,4,8,10"


def test_a_guest_that_floats_arrives_on_the_migrations_cpus_and_floats_again(site):
    set_all(site, migration_cpu_set=cpus("1"))
    xml = "<domain type='kvm'><name>db1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu></domain>"
    uuid = site.fleet.start_guest("alpha", xml, persistent=True)
    needs = parse_domain(site.hypervisor("alpha").domain(uuid).xml)
    found = adopt(needs, cpus("2-15"), site.ledger.host("alpha").facts.topology)
    assert found.numa_topology is None
    site.ledger.claim_instance(Instance(uuid, "db1", "alpha", found.flavor, found.request, None, persistent=True))
    seen = masks_while_it_copies(site, uuid)
    assert moved(site).status is MigrationStatus.COMPLETED
    assert seen == {"alpha": {"1"}, "beta": {"1"}}
    assert str(site.emulator(uuid)) == "0-1"
