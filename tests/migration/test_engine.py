"""A migration from the wish to `completed`, and what it tells on the way."""

import pytest

from numaferry.model import CpuSet, MigrationStatus, Ownership, XmlKind
from numaferry.request import parse_domain


def test_a_pinned_guest_moves_with_its_promise_kept(site):
    uuid = site.guest()
    site.guest("noisy", (2, 4, 8, 10), host="beta", adopted=False)
    site.audit("beta")
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    assert migration.status is MigrationStatus.ACCEPTED
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    ended = engine.drive(migration.id)
    assert ended.status is MigrationStatus.COMPLETED
    site.settled(uuid, moved=True)
    instance = site.ledger.instance("db1")
    assert instance.numa_topology.owned_cpus.isdisjoint(CpuSet.of([2, 4, 8, 10]))
    assert instance.vifs[0].source_dev == "enp7s0"
    assert site.hypervisor("beta").domain(uuid).ownership == Ownership(
        site.ledger.ledger_id, site.holders(uuid)["beta"]
    )


def test_it_tells_each_step_and_what_was_measured(site):
    site.guest()
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    said = site.sentences()
    for words in (
        "checking beta against the claim",
        "moving db1 from alpha to beta",
        "6 verified, 0 disagrees, 1 not verifiable",
        "update_available_resource on alpha: 0 findings in",
        "update_available_resource on beta: 0 findings in",
        "MiB sent in",
        "db1 is on beta",
    ):
        assert any(words in sentence for sentence in said), (words, said)
    assert not [sentence for sentence in said if "did not work" in sentence]


def test_the_last_step_is_named_and_the_progress_was_told(site):
    site.guest()
    engine = site.engine()
    ended = engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    assert ended.step == "update_available_resource"
    steps = [migration.step for migration, job in site.progress if job is None]
    assert list(dict.fromkeys(steps)) == [
        "check_can_live_migrate_destination",
        "check_can_live_migrate_source",
        "pre_live_migration",
        "live_migration",
        "post_live_migration",
        "post_live_migration_at_destination",
        "update_available_resource",
    ]


def test_a_persistent_guest_has_its_new_pins_at_its_next_start_too(site):
    """LP 1890501 of nova: without the persistent XML the old pins came back with the next start."""
    uuid = site.guest()
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    pins = dict(site.ledger.instance("db1").numa_topology.cpu_pinning)
    stored = parse_domain(site.hypervisor("beta").domain_xml(uuid, XmlKind.INACTIVE))
    assert {vcpu: cpus.first() for vcpu, cpus in stored.vcpupins} == pins
    assert site.audit("beta").findings == ()


def test_a_transient_guest_stays_transient(site):
    uuid = site.guest(persistent=False)
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    assert not site.hypervisor("beta").domain(uuid).persistent
    site.settled(uuid, moved=True)


def test_no_secret_is_written_anywhere(site, directory):
    site.guest()
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    assert "hunter2" not in str(site.progress)
    assert not [path for path in directory.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_pin_that_the_kernel_does_not_have_is_mended_to_the_claim(site):
    uuid = site.guest()
    site.fleet.inject("confirm", "pins-ignored")
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    ended = engine.drive(migration.id)
    assert ended.status is MigrationStatus.COMPLETED, "a guest whose read-back disagrees stays where it runs"
    assert site.ledger.instance("db1").host == "beta"
    assert "pins-differ" in [finding.kind for finding in site.ledger.findings("beta")]
    site.fleet.hosts["beta"].ignores_pins = False
    assert any("4 disagrees" in sentence for sentence in site.sentences())
    masks = dict(site.ledger.instance("db1").numa_topology.cpu_pinning)
    site.hypervisor("beta").set_pins(uuid, {v: CpuSet.of([c]) for v, c in masks.items()}, None, persistent=True)
    site.audit("beta")
    site.settled(uuid, moved=True)


def test_masks_that_were_wrong_only_once_are_set_and_verified_again(site):
    """A mask set behind libvirt's back between the switch and the read-back."""
    uuid = site.guest()

    def spoil(migration, job):
        if migration.step == "post_live_migration_at_destination" and not spoil.done:
            spoil.done = True
            site.fleet.set_kernel_mask("beta", uuid, 0, CpuSet.parse("0-15"))

    spoil.done = False
    engine = site.engine(on_progress=spoil)
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    read = [sentence for sentence in site.sentences() if sentence.startswith("read back")]
    assert ["1 disagrees" in read[0], "0 disagrees" in read[1]] == [True, True]
    site.settled(uuid, moved=True)


def test_a_guest_moves_there_and_back(site):
    uuid = site.guest()
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    engine.drive(engine.start(site.ledger.instance("db1"), "alpha").id)
    site.settled(uuid, moved=False)
    assert [one.status for one in site.ledger.migrations()] == [MigrationStatus.COMPLETED] * 2


@pytest.mark.parametrize("iothreads", [1, 2])
def test_iothreads_go_along(site, iothreads):
    uuid = site.guest(iothreads=iothreads)
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    site.settled(uuid, moved=True)
    assert not [
        sentence for sentence in site.sentences() if ", 0 disagrees" not in sentence and "read back" in sentence
    ]


def test_driving_a_migration_that_has_ended_changes_nothing(site):
    site.guest()
    engine = site.engine()
    migration = engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    before = len(site.sentences())
    assert engine.drive(migration.id) == engine.recover(migration.id) == migration
    assert len(site.sentences()) == before


def test_emulator_threads_that_need_a_cpu_on_every_page_cell_to_start_are_narrowed_after_the_switch(site):
    """The shared set is on cell 0 only, the pages on both: libvirt 9.0 does not start the guest otherwise."""
    uuid = site.guest(policy="share")
    engine = site.engine()
    engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    site.settled(uuid, moved=True)
    [said] = [sentence for sentence in site.sentences() if sentence.startswith("the emulator's CPUs")]
    assert said.endswith("are 0-1 now"), said
    assert parse_domain(site.hypervisor("beta").domain(uuid).xml).emulatorpin == CpuSet.parse("0-1")
