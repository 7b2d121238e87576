"""A move that failed before the switch is tried on the next best host, a bounded number of times."""

import pytest

from numaferry.errors import MigrationFailed, NumaferryError
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig, PolicyWish
from numaferry.service import Ferry
from numaferry.virt.simulated import Fleet

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7"), cpu_shared_set=CpuSet.parse("0-1"), reserved_host_memory_mb=64)
GUEST = """<domain type='kvm'><name>db1</name><memory unit='MiB'>64</memory><vcpu placement='static'>1</vcpu>
<cputune><vcpupin vcpu='0' cpuset='2'/></cputune><numatune><memory mode='strict' nodeset='0'/></numatune>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"""
HOSTS = ("alpha", "beta", "delta", "gamma", "omega")


class Told:
    """What a command would have been told."""

    def __init__(self):
        self.attempts = []

    def again(self, _migration, sentence):
        self.attempts.append(sentence)

    def started(self, migration):
        pass

    def progress(self, migration, progress):
        pass


class Place:
    """A guest on the first of several equal hosts."""

    def __init__(self, folder, hosts=HOSTS):
        self.fleet = Fleet("tried")
        for name in hosts:
            self.fleet.add_host(name, "1 cell x 8 cores x 1 thread, 4G")
        self.ledger = open_ledger(str(folder / "ledger.sqlite"))
        self.ferry = Ferry(self.ledger, lambda uri: self.fleet.hypervisor(uri.rpartition("/")[2]))
        for name in hosts:
            self.ferry.host_add(name, self.fleet.uri(name), config=SETS)
        self.uuid = self.fleet.start_guest("alpha", GUEST)
        self.ferry.adopt(everything=True)
        self.told = Told()

    def fails(self):
        """Let the next destination not start the guest."""
        self.fleet.inject("prepare", "dest-start-fails")

    def migrate(self, dest=None):
        return self.ferry.migrate("db1", dest, watch=self.told)

    def statuses(self):
        return [(move.dest, str(move.status)) for move in self.ledger.migrations()]


@pytest.fixture
def place_of(tmp_path, monkeypatch):
    monkeypatch.setattr("numaferry.service.moves.PAUSES_S", (0.0, 0.0))
    made = []

    def make(*hosts):
        made.append(Place(tmp_path, hosts or HOSTS))
        return made[0]

    yield make
    made[0].ferry.close()
    made[0].fleet.close()


@pytest.fixture
def place(place_of):
    return place_of()


def test_a_destination_that_can_not_start_the_guest_is_passed_over(place):
    place.fails()
    shown = place.migrate()
    assert place.statuses() == [("beta", "failed"), ("delta", "completed")]
    assert shown.migration.dest == "delta"
    assert any(event.sentence.startswith("attempt 2 of 3: migration 1 to beta failed") for event in shown.events)
    assert len(place.told.attempts) == 1
    assert place.fleet.running_on(place.uuid) == ("delta",)
    assert [len(place.ledger.view(name).holdings) for name in HOSTS] == [0, 0, 1, 0, 0]


def test_after_three_attempts_it_is_given_up_and_the_guest_is_where_it_was(place):
    place.fails()

    class Failing(Told):
        def again(self, _migration, _sentence):
            place.fails()

    place.told = Failing()
    with pytest.raises(MigrationFailed):
        place.migrate()
    assert place.statuses() == [("beta", "failed"), ("delta", "failed"), ("gamma", "failed")]
    assert place.fleet.running_on(place.uuid) == ("alpha",)


def test_where_the_operator_named_the_host_no_other_is_tried(place):
    place.fails()
    with pytest.raises(MigrationFailed):
        place.migrate("gamma")
    assert place.statuses() == [("gamma", "failed")]


def test_with_no_other_host_left_the_failure_is_told_and_nothing_waits(place_of):
    place = place_of("alpha", "beta")
    place.fails()
    with pytest.raises(MigrationFailed, match="to beta failed and was rolled back"):
        place.migrate()
    assert place.statuses() == [("beta", "failed")]


def test_one_that_a_person_gave_up_is_not_begun_again(place):
    place.fleet.bandwidth_mib_s, place.fleet.pace_s = 4, 0.05

    class GivingUp(Told):
        def progress(self, migration, progress):
            if progress is not None:
                place.ledger.request_abort(migration.id)

    place.told = GivingUp()
    with pytest.raises(NumaferryError):
        place.migrate()
    assert place.statuses() == [("beta", "cancelled")]


def test_one_that_another_client_ended_is_not_begun_again(place):
    place.fleet.inject("perform", "abort")
    with pytest.raises(NumaferryError):
        place.migrate()
    assert place.statuses() == [("beta", "failed")]


def test_one_that_its_policy_gave_up_is_not_begun_again(place):
    place.fleet.bandwidth_mib_s, place.fleet.pace_s = 4, 0.05
    with pytest.raises(MigrationFailed):
        place.ferry.migrate("db1", policy=PolicyWish.of(completion_timeout_s=1))
    assert place.statuses() == [("beta", "failed")]
