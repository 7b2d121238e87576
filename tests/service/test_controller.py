"""`serve` on the simulated fleet: what is handed to a controller, what it takes over, and two that share a ledger."""

import threading
import time

import pytest

from numaferry.errors import Conflict, LedgerUnusable, MigrationFailed
from numaferry.ledger import open_ledger
from numaferry.migration.controllers import name_of
from numaferry.migration.lease import LeasePolicy
from numaferry.model import CpuSet, HostConfig, Limits, MigrationStatus
from numaferry.service import Ferry
from numaferry.service.controller import Controller
from numaferry.service.discovery import Reach
from numaferry.service.driving import engine_for
from numaferry.virt.simulated import Fleet

SETS = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7"), cpu_shared_set=CpuSet.parse("0-1"), reserved_host_memory_mb=64)
#: For tests of taking over by time; elsewhere a busy machine must not lose a lease.
QUICK = LeasePolicy(ttl_s=1.0, longest_call_s=0.2)
USUAL = LeasePolicy(ttl_s=60.0, longest_call_s=1.0)
DEAD = "elsewhere:999:1.1"


def guest(name, cpu):
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu placement='static'>1</vcpu>"
        f"<cputune><vcpupin vcpu='0' cpuset='{cpu}'/></cputune>"
        "<numatune><memory mode='strict' nodeset='0'/></numatune>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
    )


class Place:
    """Two hosts with three pinned guests on the first, a ledger, and controllers in threads."""

    def __init__(self, folder):
        self.fleet = Fleet("served", pace_s=0.005)
        for name in ("alpha", "beta"):
            self.fleet.add_host(name, "1 cell x 8 cores x 1 thread, 4G")
        self.path = str(folder / "ledger.sqlite")
        self.ledger = open_ledger(self.path)
        self.ferry = Ferry(self.ledger, self.connect)
        for name in ("alpha", "beta"):
            self.ferry.host_add(name, self.fleet.uri(name), config=SETS)
        self.uuids = {
            name: self.fleet.start_guest("alpha", guest(name, cpu))
            for name, cpu in (("one", 2), ("two", 3), ("six", 4))
        }
        self.ferry.adopt(everything=True)
        self.said, self.stop, self.threads = [], threading.Event(), []

    def connect(self, uri):
        return self.fleet.hypervisor(uri.rpartition("/")[2])

    def controller(self, name="here", ledger=None, **more):
        more = {"turn_s": 0.02, "look_s": 60, "lease": USUAL, **more}
        return Controller(ledger or open_ledger(self.path), Reach(self.connect), self.said.append, name=name, **more)

    def serve(self, **more):
        made = self.controller(**more)
        thread = threading.Thread(target=made.run, args=(self.stop,), daemon=True)
        thread.start()
        self.threads.append(thread)
        self.wait(lambda: any(one.alive for one in self.ledger.controllers()))
        return made

    def accepted(self, name):
        """Claim a move as a command does that leaves it to a controller; returns its id."""
        engine = engine_for(self.ledger, Reach(self.connect))
        return engine.start(self.ledger.instance(name), "beta", handed_over=True).id

    def left(self, name, controller=DEAD, ttl_s=0.0):
        """A migration whose controller, on another machine, is silent since its first step; returns its id."""
        number = self.accepted(name)
        self.ledger.take_lease(number, controller, ttl_s, grace_s=0, key=f"{number} left")
        self.ledger.set_migration(
            number, sentence="preparing", status=MigrationStatus.PREPARING, step="pre_live_migration"
        )
        return number

    def wait(self, true, seconds=20):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def ended(self, number):
        self.wait(lambda: not self.ledger.migration(number).in_progress)
        return self.ledger.migration(number)

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
        self.ferry.close()
        self.fleet.close()


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_command_hands_its_migration_to_the_controller_and_follows_it(place):
    controller = place.serve()
    shown = place.ferry.migrate("one", "beta")
    assert shown.migration.status == "completed"
    assert shown.migration.controller == controller.session
    assert place.fleet.running_on(place.uuids["one"]) == ("beta",)
    assert any(sentence.startswith("migration 1 of one: driving alpha → beta") for sentence in place.said)


def test_without_a_controller_the_command_drives_it_itself(place):
    shown = place.ferry.migrate("one", "beta")
    assert shown.migration.status == "completed"
    assert shown.migration.controller
    assert place.ledger.controllers() == ()


def test_what_fails_at_the_controller_fails_at_the_command(place):
    place.serve()
    place.fleet.inject("prepare", "dest-start-fails")
    with pytest.raises(MigrationFailed, match="cannot start the guest here"):
        place.ferry.migrate("one", "beta")
    assert place.fleet.running_on(place.uuids["one"]) == ("alpha",)


def test_more_than_it_drives_at_once_waits_as_queued_with_its_claim(place):
    place.fleet.bandwidth_mib_s = 8
    numbers = [place.accepted(name) for name in ("one", "two", "six")]
    place.serve(parallel=1)
    place.wait(lambda: place.ledger.migration(numbers[2]).status is MigrationStatus.QUEUED)
    assert len(place.ledger.view("beta").holdings) == 3
    assert [place.ended(number).status for number in numbers] == [MigrationStatus.COMPLETED] * 3


def test_a_host_sends_no_more_at_once_than_its_limit(place):
    place.fleet.bandwidth_mib_s = 8
    numbers = [place.accepted(name) for name in ("one", "two", "six")]
    place.serve(limits=Limits(per_source=1))
    words = "queued, 2 of 2: alpha sends 1 already (limit 1)"
    place.wait(lambda: place.ledger.migration(numbers[2]).reason == words)
    assert place.ledger.migration(numbers[2]).status is MigrationStatus.QUEUED
    assert [place.ended(number).status for number in numbers] == [MigrationStatus.COMPLETED] * 3
    told = [event for number in numbers for event in place.ledger.events(migration=number)]
    turns = [event.id for event in told if "its turn has come" in event.sentence]
    ends = [event.id for event in told if "should be on beta" in event.sentence]
    assert turns[0] < ends[0] < turns[1] < ends[1] < turns[2]


def test_a_queued_one_that_is_given_up_frees_its_claim_at_once(place):
    """LP 1949808 and 1960412 of nova: an abort while queued left ports and claims."""
    place.fleet.bandwidth_mib_s = 2
    first, second = place.accepted("one"), place.accepted("two")
    place.serve(parallel=1)
    place.wait(lambda: place.ledger.migration(second).status is MigrationStatus.QUEUED)
    assert place.ferry.migration_abort(str(second)).status == "cancelled"
    assert [one.instance_name for one in place.ledger.view("beta").holdings] == ["one"]
    assert place.ledger.migration(first).in_progress


def test_recover_by_hand_leaves_alone_what_waits_for_the_controller(place):
    place.fleet.bandwidth_mib_s = 2
    place.accepted("one")
    waiting = place.accepted("two")
    place.serve(parallel=1)
    place.wait(lambda: place.ledger.migration(waiting).status is MigrationStatus.QUEUED)
    assert place.ferry.migration_recover() == ()
    assert place.ledger.migration(waiting).status is MigrationStatus.QUEUED


def test_it_takes_over_what_another_left_only_after_lease_and_longest_call(place):
    number = place.left("one", ttl_s=0.5)
    began = time.monotonic()
    place.serve(lease=QUICK)
    assert place.ended(number).status is MigrationStatus.FAILED
    assert time.monotonic() - began > QUICK.longest_call_s
    assert place.fleet.running_on(place.uuids["one"]) == ("alpha",)
    assert place.ledger.view("beta").holdings == ()


def test_a_second_one_of_the_same_name_is_told_so(place):
    first = place.serve(name="east")
    with pytest.raises(Conflict, match=f"a controller named east runs already \\({first.session}\\)") as caught:
        place.controller(name="east").run(threading.Event())
    assert caught.value.code == "controller-runs"
    assert "--name" in caught.value.hint


def test_the_name_of_a_process_that_died_is_free_at_once(place):
    place.ledger.register_controller("east", name_of(999_999_999, "1"), 60)
    place.serve(name="east")
    assert [one.name for one in place.ledger.controllers()] == ["east"]


def test_two_share_a_ledger_and_each_migration_has_one_driver(place):
    numbers = [place.accepted(name) for name in ("one", "two", "six")]
    place.serve(name="east")
    place.serve(name="west")
    assert [place.ended(number).status for number in numbers] == [MigrationStatus.COMPLETED] * 3
    for number in numbers:
        takes = [event for event in place.ledger.events(migration=number) if event.kind == "lease"]
        assert len(takes) == 1, takes


def test_what_one_that_ends_leaves_is_taken_over_once_its_last_call_must_be_over(place):
    """It let go of its leases at once, while a call of its own was on its way: a guest moved without a claim."""
    place.fleet.bandwidth_mib_s = 2
    number = place.accepted("one")
    first = place.serve(name="east", lease=QUICK)
    place.wait(lambda: place.fleet.hypervisor("alpha").job(place.uuids["one"]) is not None)
    place.stop.set()
    place.threads[0].join(10)
    assert place.ledger.migration(number).controller == first.session
    assert place.said[-1] == f"controller east ends; migrations {number} are left to the next one"
    place.stop = threading.Event()
    place.serve(name="west", lease=QUICK)
    assert place.ended(number).status is MigrationStatus.COMPLETED
    assert place.fleet.running_on(place.uuids["one"]) == ("beta",)


def test_one_whose_output_nobody_reads_any_more_drives_on(place):
    """It died in each of its threads before it drove, and was called alive: every command waited for it for ever."""
    controller = place.serve()

    def closed(_sentence):
        raise BrokenPipeError(32, "Broken pipe")

    controller._say = closed
    assert place.ferry.migrate("one", "beta").migration.status == "completed"


def test_a_host_with_which_something_unforeseen_is_wrong_is_no_other_host_s_matter(place, monkeypatch):
    looked = []

    def odd(uri):
        if uri.endswith("/alpha"):
            raise ValueError("a fault of ours")
        looked.append(uri)
        return place.connect(uri)

    place.serve(ledger=place.ledger, look_s=0.05)
    monkeypatch.setattr(place, "connect", place.connect)
    controller = place.controller(name="other", look_s=0.05)
    controller._reach = Reach(odd)
    thread = threading.Thread(target=controller.run, args=(place.stop,), daemon=True)
    thread.start()
    place.threads.append(thread)
    place.wait(lambda: looked)
    place.wait(lambda: "host alpha: ValueError: a fault of ours" in place.said)


def test_a_controller_that_is_killed_is_followed_by_the_command_that_had_handed_over(place):
    """Its lease has run out and no other controller runs: the command drives on itself."""
    place.ledger.register_controller("east", "elsewhere:1:1.1", 0.5)
    shown = place.ferry.migrate("one", "beta")
    assert shown.migration.status == "completed"


def test_a_ledger_that_is_away_for_a_moment_ends_nothing(place, monkeypatch):
    controller = place.serve()
    real = controller._ledger.migrations
    monkeypatch.setattr(
        controller._ledger, "migrations", lambda **_: (_ for _ in ()).throw(LedgerUnusable("the ledger is locked"))
    )
    place.wait(lambda: any("trying again: the ledger is locked" in sentence for sentence in place.said))
    monkeypatch.setattr(controller._ledger, "migrations", real)
    assert place.ferry.migrate("one", "beta").migration.status == "completed"
    assert sum("trying again" in sentence for sentence in place.said) == 1


def test_it_looks_at_hosts_and_says_which_is_silent(place):
    place.serve(look_s=0.05)
    place.fleet.cut("controller", "beta")
    place.wait(lambda: place.ledger.host("beta").state == "unreachable")
    place.wait(lambda: any(sentence.startswith("host beta: ") for sentence in place.said))
    place.fleet.heal()
    place.wait(lambda: place.ledger.host("beta").state == "reachable")
    place.wait(lambda: "host beta: can be asked again" in place.said)
