"""What a person answers is held against both hosts, and ends what no evidence could."""

import pytest

from numaferry.errors import Conflict, HostUnreachable, NeedsPerson
from numaferry.migration.answers import Answer
from numaferry.model import MigrationPolicy, MigrationStatus
from numaferry.virt.simulated import ClientDied

GONE = Answer.GUEST_IS_GONE


@pytest.fixture
def number(site):
    """A transient guest in the middle of its move, and its controller is killed."""
    site.guest(persistent=False)
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=64))
    site.fleet.inject("perform", "client-dies", after_bytes=10 << 20)
    with pytest.raises(ClientDied):
        engine.drive(migration.id)
    return migration.id


@pytest.fixture
def uuid(site, number):
    return site.ledger.migration(number).instance_uuid


@pytest.fixture
def ended(site, uuid):
    """The guest ends on the source, which forgets it since it is transient."""
    site.fleet.end_guest("alpha", uuid, "destroyed")
    site.fleet.advance(3)


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("asked", [False, True], ids=["answered at once", "after recover had called a person"])
def test_a_guest_that_was_gone_for_good_held_both_claims_for_ever(site, number, uuid, asked):
    if asked:
        with pytest.raises(NeedsPerson, match="has no such domain"):
            site.recover(number)
    with pytest.raises(Conflict, match="is being moved"):
        site.ledger.forget_instance(uuid)
    ended = site.answer(number, GONE)
    assert ended.status is MigrationStatus.CANCELLED
    assert "source alpha: has no such domain; dest beta: has no such domain" in ended.reason
    assert site.holders(uuid) == {}
    assert site.ledger.instance_by_uuid(uuid) is None
    assert any("the claim on beta is released: a person answered" in one for one in site.sentences(number))
    assert any(one.kind == "forgotten" for one in site.ledger.events(host="alpha"))
    site.guest("db2", (2, 4, 8, 10))
    assert site.ledger.instance("db2").host == "alpha", "what it held can be promised again"


def test_a_guest_that_runs_is_not_forgotten_because_a_person_says_it_is_gone(site, number, uuid):
    with pytest.raises(Conflict, match=r"db1 is not gone: source alpha: running .*; dest beta: ") as caught:
        site.answer(number, GONE)
    assert f"numaferry migration recover {number}" in caught.value.hint
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    assert site.ledger.migration(number).controller == "", "who answered lets go of it"
    site.recover(number)
    site.settled(uuid, moved=True)


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_a_silent_host_is_no_witness_that_a_guest_is_gone(site, number, uuid, host):
    site.fleet.cut("controller", host)
    with pytest.raises(HostUnreachable, match=f"{host}: can't be asked"):
        site.answer(number, GONE)
    assert set(site.holders(uuid)) == {"alpha", "beta"}


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_another_machine_is_no_witness_that_a_guest_is_gone(site, number, uuid, host):
    site.fleet.hosts[host].uuid = "00000000-0000-4000-8000-00000000beef"
    site.audit(host)
    with pytest.raises(Conflict, match=f"what answers as {host} is machine 00000000"):
        site.answer(number, GONE)
    assert set(site.holders(uuid)) == {"alpha", "beta"}


def test_a_guest_that_comes_between_the_two_looks_is_kept(site, number, uuid):
    xml = site.fleet.hosts["alpha"].domains[uuid].live
    site.fleet.end_guest("alpha", uuid, "destroyed")
    site.fleet.advance(3)
    looks = []

    def comes_back(seconds):
        looks.append(seconds)
        site.fleet.start_guest("alpha", xml, persistent=False)

    with pytest.raises(Conflict, match="is not gone"):
        site.answer(number, GONE, sleep=comes_back)
    assert looks == [1.0]
    assert set(site.holders(uuid)) == {"alpha", "beta"}
