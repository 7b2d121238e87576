"""Two ledgers on one host are refused, when it is added and ever after, unless an operator accepts it."""

import pytest

from numaferry.errors import Conflict
from numaferry.ledger import open_ledger
from numaferry.ledger.hosts import QUARANTINED, REACHABLE
from numaferry.model import CpuSet, HostConfig
from numaferry.service import Ferry
from numaferry.virt.simulated import Fleet

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3"), cpu_shared_set=CpuSet.parse("0"))


def guest(name):
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu placement='static'>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
    )


@pytest.fixture
def fleet():
    made = Fleet("shared")
    made.add_host("alpha", "1 cell x 4 cores x 1 thread, 1536M")
    yield made
    made.close()


@pytest.fixture
def two(tmp_path, fleet):
    """Two ledgers that know the host since before it had a guest."""

    def connect(uri):
        return fleet.hypervisor(uri.rpartition("/")[2])

    made = [Ferry(open_ledger(str(tmp_path / name)), connect) for name in ("mine", "theirs")]
    for ferry in made:
        ferry.host_add("alpha", fleet.uri("alpha"), config=SETS)
    fleet.start_guest("alpha", guest("db1"))
    made[1].adopt(everything=True)
    yield made
    for ferry in made:
        ferry.close()


def test_a_host_that_another_ledger_came_to_later_takes_no_claim_of_ours(two):
    mine, theirs = two
    assert mine.ledger.host("alpha").state == REACHABLE
    mine.topology("alpha")
    record = mine.ledger.host("alpha")
    assert (record.state, record.claimable) == (QUARANTINED, False)
    assert theirs.ledger.ledger_id in record.state_reason
    assert theirs.ledger.host("alpha").state == REACHABLE


def test_an_audit_sees_it_too(two):
    mine, _ = two
    mine.audit("alpha")
    assert mine.ledger.host("alpha").state == QUARANTINED


def test_an_operator_who_confirms_the_host_accepts_it_for_good(two):
    mine, _ = two
    mine.topology("alpha")
    mine.host_confirm("alpha")
    mine.topology("alpha")
    assert mine.ledger.host("alpha").state == REACHABLE


def test_a_host_with_another_ledgers_guests_is_added_only_to_be_taken_over(two, tmp_path):
    mine, _ = two
    mine.ledger.remove_host("alpha")
    uri = "sim://shared/alpha"
    with pytest.raises(Conflict, match="belong to another ledger"):
        mine.host_add("alpha", uri, config=SETS)
    mine.host_add("alpha", uri, config=SETS, take_over=True)
    mine.topology("alpha")
    assert mine.ledger.host("alpha").state == REACHABLE
