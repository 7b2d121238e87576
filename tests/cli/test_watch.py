"""`migration watch` on the simulated fleet: from another terminal, whoever drives, again and again, to the end."""

import itertools
import json
import threading
import time

import attrs
import pytest
from cli_world import guest_xml

from numaferry.cli import progress as shown
from numaferry.errors import HypervisorError, LedgerUnusable, NumaferryError
from numaferry.ledger import open_ledger
from numaferry.migration.lease import LeasePolicy
from numaferry.model import JobInfo, MigrationStatus
from numaferry.service import Ferry, following
from numaferry.service.controller import Controller
from numaferry.service.discovery import Reach
from numaferry.service.driving import teller
from numaferry.virt.simulated import ClientDied

QUICK = LeasePolicy(ttl_s=1.0, longest_call_s=0.2)
#: What every line has, before and after anything is known.
KEYS = {
    *("migration", "instance", "source", "dest", "status", "step", "reason", "controller"),
    *("progress", "events", "note"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks come often, as the simulated job is short, and none is passed over."""
    monkeypatch.setattr(following, "POLL_S", 0.02)
    monkeypatch.setattr(shown, "_LINE_EVERY_S", 0.0)


class Site:
    """The world of the command line, with drivers in threads of their own."""

    def __init__(self, world):
        self.world, self.fleet = world, world.fleet
        self.uuid = self.fleet.start_guest("alpha", guest_xml("db1", [2, 6], [0, 1]))
        world.manage()
        self.ledger = open_ledger(world.db)
        self.stop, self.threads, self.errors = threading.Event(), [], []

    def connect(self, uri):
        return self.fleet.hypervisor(uri.rpartition("/")[2])

    def slow(self, mib_s=32, dirty_mib_s=0):
        """Let the next move last for some seconds of real time."""
        self.fleet.pace_s, self.fleet.bandwidth_mib_s = 0.05, mib_s
        self.fleet.dirty_mib_s[self.uuid] = dirty_mib_s

    def begin(self, work):
        def run():
            try:
                work()
            except (NumaferryError, ClientDied) as error:
                self.errors.append(error)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def moving(self):
        """Begin a move in another thread, as another command would, and wait until it copies."""
        ferry = Ferry(open_ledger(self.world.db), self.connect)
        self.begin(lambda: ferry.migrate("db1", "beta"))
        self.wait(lambda: self.ledger.last_sample(1) is not None)

    def serve(self, name):
        """Run a controller in another thread; what is returned ends it when set."""
        controller = Controller(
            open_ledger(self.world.db), Reach(self.connect), lambda _: None, name=name, turn_s=0.02, lease=QUICK
        )
        stop = threading.Event()
        self.begin(lambda: controller.run(stop))
        self.wait(lambda: any(one.name == name for one in self.ledger.controllers()))
        return stop

    def watch(self, ref="1", form=("-f", "json")):
        return self.world.run("migration", "watch", ref, *form)

    def wait(self, true, seconds=20):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.errors
            time.sleep(0.01)

    def close(self):
        for thread in self.threads:
            thread.join(30)
        self.ledger.close()


@pytest.fixture
def site(world):
    made = Site(world)
    yield made
    made.close()


def lines(ran):
    """The objects that were printed, each in a line of its own."""
    return [json.loads(line) for line in ran.out.splitlines()]


def failed(site):
    """A migration that was rolled back: number 1."""
    site.fleet.inject("prepare", "dest-start-fails")
    assert site.world.run("migrate", "db1", "--dest", "beta").code == 6


def left(site):
    """A migration whose driver is a process that is no more, while its job goes on: number 1."""
    site.fleet.inject("perform", "client-dies", after_bytes=16 << 20)
    with pytest.raises(ClientDied):
        site.world.run("migrate", "db1", "--dest", "beta")
    gone = site.ledger.migration(1).controller
    dead = f"{gone.split(':')[0]}:999999999:1"
    site.ledger.take_lease(1, dead, 30.0, grace_s=60.0, gone=gone, key="killed")
    return dead


# -- to its end ------------------------------------------------------------------------------------------------------


def test_a_move_of_another_command_is_watched_to_its_end(site):
    site.slow()
    site.moving()
    ran = site.watch("db1")
    assert ran.code == 0, ran.err
    told = lines(ran)
    assert all(set(line) == KEYS for line in told)
    assert (told[0]["status"], told[-1]["status"]) == ("running", "completed")
    assert {line["instance"] for line in told} == {"db1"}
    assert told[-1]["progress"]["percent"] == 100
    assert told[-1]["progress"]["job"]["completed"] is True
    assert told[-1]["progress"]["trend"] == "completed"
    steps = [line["step"] for line in told]
    assert steps.index("live_migration") < steps.index("update_available_resource")


def test_each_sentence_of_the_history_is_told_once_and_in_order(site):
    site.slow()
    site.moving()
    before = len(site.ledger.events(migration=1))
    told = [event["sentence"] for line in lines(site.watch()) for event in line["events"]]
    assert told == [event.sentence for event in site.ledger.events(migration=1)][before:][: len(told)]
    assert told[-1] == "db1 is on beta"


def test_a_line_is_a_change_and_never_says_100_percent_while_bytes_remain(site):
    site.slow(64, dirty_mib_s=48)
    site.moving()
    told = lines(site.watch())
    for before, after in itertools.pairwise(told):
        assert after["events"] or after != {**before, "events": []}
    for line in told:
        progress = line["progress"]
        if progress and progress["job"]["memory_remaining_bytes"]:
            assert progress["percent"] < 100
    running = [line["progress"] for line in told if line["status"] == "running" and line["progress"]]
    assert running
    for one in running:
        left = one["job"]["memory_remaining_bytes"]
        assert one["eta"] == "switching" if not left else " left, at 64 MiB/s less 48 MiB/s dirtied" in one["eta"], one
    passes = [one["job"]["memory_iteration"] for one in running]
    assert passes == sorted(passes)
    assert "converging" in {one["trend"] for one in running}


def test_a_guest_that_dirties_faster_than_it_is_sent_has_no_time_left_and_stalls(site):
    site.slow(64, dirty_mib_s=80)
    site.moving()
    told = []

    def tell(line):
        told.append(line)
        if line.progress and line.progress.stalled_since:
            site.fleet.dirty_mib_s[site.uuid] = 0
            for job in site.fleet.jobs.values():
                job.dirty_bytes_s = 0

    Ferry(site.ledger, site.connect).migration_watch("1", tell)
    stalled = [line.progress for line in told if line.status == "running" and line.progress.stalled_since]
    assert stalled[0].trend == "stalled since iteration 2"
    assert stalled[0].eta == "none: dirty rate exceeds bandwidth"
    assert stalled[0].eta_s is None


def test_plain_lines_have_the_same_words(site):
    site.slow()
    site.moving()
    ran = site.watch(form=())
    assert ran.code == 0, ran.err
    told = ran.out.splitlines()
    assert told[0] == "migration 1: db1 from alpha to beta, running"
    assert " MiB, bandwidth 32 MiB/s, dirty rate 0 MiB/s, iteration 1, too early to tell, about " in told[1]
    assert told[-1].startswith("migration 1: completed update_available_resource, 100 %, memory processed ")
    assert "migration 1: libvirt counted 128 MiB sent" in ran.out
    assert ran.err == ""


def test_watching_again_and_by_two_at_once_changes_nothing(site):
    site.slow()
    site.moving()
    seen = []
    for number in range(2):
        ferry = Ferry(open_ledger(site.world.db), site.connect)
        seen.append([])
        site.begin(lambda ferry=ferry, number=number: ferry.migration_watch("1", seen[number].append))
    site.wait(lambda: not site.ledger.migration(1).in_progress)
    for thread in site.threads:
        thread.join(20)
    assert [one[-1].status for one in seen] == ["completed", "completed"]
    before = site.world.rows()
    assert site.watch().code == 0
    assert site.world.rows() == before


# -- drivers that come and go ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Exception in thread migration-1:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_controller_that_dies_and_the_one_that_follows_it_are_seen_in_one_watch(site):
    site.slow(16)
    site.fleet.inject("perform", "client-dies", after_bytes=64 << 20)
    first = site.serve("east")
    ferry = Ferry(open_ledger(site.world.db), site.connect)
    site.begin(lambda: ferry.migrate("db1", "beta"))
    site.wait(lambda: site.ledger.last_sample(1) is not None)
    told = []
    site.begin(lambda: Ferry(site.ledger, site.connect).migration_watch("1", told.append))
    site.wait(lambda: told)
    first.set()
    second = site.serve("west")
    site.wait(lambda: told[-1].status == "completed")
    second.set()
    drivers = list(dict.fromkeys(line.controller for line in told if line.controller))
    assert len(drivers) == 2
    sentences = [event.sentence for line in told for event in line.events]
    assert any("takes over" in sentence for sentence in sentences)


def test_a_move_that_nobody_drives_says_so_and_is_watched_on_when_somebody_does(site):
    dead = left(site)
    told = []
    site.begin(lambda: Ferry(site.ledger, site.connect).migration_watch("db1", told.append))
    site.wait(lambda: told)
    assert told[0].controller == dead
    assert told[0].note.startswith("nobody drives it: numaferry migration recover 1")
    with Ferry(open_ledger(site.world.db), site.connect) as other:
        other.migration_recover("1")
    site.wait(lambda: told[-1].status == "completed")
    assert told[-1].note == ""


# -- what has ended already ------------------------------------------------------------------------------------------


def test_one_that_has_completed_is_told_at_once_with_its_last_figures(site):
    site.world.ok("migrate", "db1", "--dest", "beta")
    (line,) = lines(site.watch())
    assert (line["status"], line["events"]) == ("completed", [])
    assert line["progress"]["job"]["memory_processed_bytes"] >= 128 << 20
    assert line["progress"]["eta_s"] is None
    plain = site.watch("db1", form=())
    assert plain.code == 0
    assert plain.out.splitlines()[-1].startswith("migration 1: completed update_available_resource, 100 %, memory")


def test_one_that_failed_ends_with_6_and_says_why(site):
    failed(site)
    ran = site.watch(form=())
    assert ran.code == 6
    assert "failed" in ran.out
    assert ran.err.startswith("error: migration 1 of db1 is failed: ")
    ran = site.watch()
    assert ran.code == 6
    assert lines(ran)[-1]["status"] == "failed"
    assert json.loads(ran.err)["error"]["exit_code"] == 6


def test_one_that_is_given_up_under_way_ends_with_6_and_keeps_its_last_figures(site):
    site.slow(4)
    site.moving()
    site.begin(lambda: Ferry(open_ledger(site.world.db), site.connect).migration_abort("1"))
    ran = site.watch()
    assert ran.code == 6
    last = lines(ran)[-1]
    assert last["status"] == "cancelled"
    assert 0 < last["progress"]["percent"] < 100
    assert (last["progress"]["eta_s"], last["progress"]["eta"]) == (None, "")


def test_one_that_needs_a_person_ends_with_7_and_can_be_watched_again_after_the_answer(site):
    site.world.ok("migrate", "db1", "--dest", "beta")
    site.slow()
    ferry = Ferry(open_ledger(site.world.db), site.connect)
    site.begin(lambda: ferry.migrate("db1", "alpha"))
    site.wait(lambda: site.ledger.last_sample(2) is not None)
    told = []

    def puzzle(line):
        told.append(line)
        if line.status == "running" and len(told) == 1:
            now = site.ledger.migration(2)
            site.ledger.set_migration(
                2, sentence="who knows", status=MigrationStatus.ERROR, reason="two hosts run it", token=now.token
            )

    with pytest.raises(NumaferryError) as caught:
        Ferry(site.ledger, site.connect).migration_watch("2", puzzle)
    assert caught.value.exit_code == 7
    assert told[-1].status == "error"
    ran = site.watch("2", form=())
    assert ran.code == 7
    assert "two hosts run it" in ran.err
    assert "migration recover 2" in ran.err


# -- Ctrl-C, names, a ledger that is away ----------------------------------------------------------------------------


def test_ctrl_c_ends_the_watching_and_nothing_else(site, monkeypatch):
    site.slow(16)
    site.moving()
    main = threading.main_thread()

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(seconds):
            if threading.current_thread() is main:
                raise KeyboardInterrupt
            time.sleep(seconds)

    monkeypatch.setattr(following, "time", Clock)
    ran = site.watch(form=())
    monkeypatch.undo()
    assert ran.code == 130
    assert ran.err.startswith("interrupted: migration 1 of db1 is left alone, running: ")
    assert "hint: numaferry migration watch 1 watches it again; numaferry migration abort 1 gives it up" in ran.err
    assert site.ledger.migration(1).status is MigrationStatus.RUNNING
    assert not site.ledger.migration(1).abort_requested
    site.wait(lambda: site.ledger.migration(1).status is MigrationStatus.COMPLETED)


def test_an_instance_means_its_newest_migration_and_a_number_the_migration(site):
    failed(site)
    site.world.ok("migrate", "db1", "--dest", "beta")
    assert lines(site.watch("db1"))[-1]["migration"] == 2
    assert lines(site.watch(site.uuid))[-1]["migration"] == 2
    assert lines(site.watch("1"))[-1]["migration"] == 1
    assert lines(site.watch(site.ledger.migration(1).uuid))[-1]["migration"] == 1


@pytest.mark.parametrize("ref", ["7", "nobody", "db1"])
def test_what_was_never_migrated_is_not_found(site, ref):
    ran = site.watch(ref)
    assert ran.code == 2
    assert "is no migration, and no instance that was ever migrated" in json.loads(ran.err)["error"]["message"]


def away(*, retryable):
    error = LedgerUnusable("the ledger is away")
    error.retryable = retryable
    return error


def test_a_ledger_that_is_back_in_a_moment_is_waited_for():
    answers = [away(retryable=True), away(retryable=True), 7]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert following.patiently(ask, pause_s=0) == 7


@pytest.mark.parametrize(("retryable", "patience_s"), [(False, 60), (True, 0)])
def test_a_ledger_that_stays_away_is_told(retryable, patience_s):
    def ask():
        raise away(retryable=retryable)

    with pytest.raises(LedgerUnusable):
        following.patiently(ask, patience_s=patience_s, pause_s=0)


def test_a_host_that_can_t_be_asked_is_no_matter_of_the_watch(site, monkeypatch):
    site.world.ok("migrate", "db1", "--dest", "beta")

    def refused(_uri):
        raise HypervisorError("no host is asked")

    Ferry(site.ledger, refused).migration_watch("1", lambda _: None)


# -- beside the watch ------------------------------------------------------------------------------------------------


def test_show_has_the_last_figures_and_the_trend(site):
    site.slow(64, dirty_mib_s=48)
    site.world.ok("migrate", "db1", "--dest", "beta")
    assert "last figures" in site.world.ok("migration", "show", "1")
    assert site.world.told("migration", "show", "1")["progress"]["percent"] == 100
    with site.ledger._write() as connection:
        connection.exec_driver_sql(
            "DELETE FROM migration_sample WHERE id = (SELECT max(id) FROM migration_sample WHERE migration_id = 1)"
        )
    assert ", converging (" in site.world.ok("migration", "show", "1")


def test_show_of_one_that_copied_nothing_has_no_figures(site):
    failed(site)
    assert "last figures" not in site.world.ok("migration", "show", "1")
    assert site.world.told("migration", "show", "1")["progress"] is None


def test_migrate_tells_its_own_progress_in_the_same_words(site):
    site.slow(64, dirty_mib_s=48)
    ran = site.world.run("migrate", "db1", "--dest", "beta")
    assert ran.code == 0, ran.err
    told = [line for line in ran.err.splitlines() if "remaining" in line]
    assert "too early to tell, about " in told[0]
    assert any("converging, about " in line for line in told)
    assert all("left, at 64 MiB/s less 48 MiB/s dirtied" in line for line in told if "remaining 0 of" not in line)


def test_a_job_that_is_adopted_reads_as_its_samples_do(site):
    """Its first look in a process that takes over is not its first look."""
    left(site)
    job = JobInfo(memory_total_bytes=100, memory_remaining_bytes=50, memory_iteration=1)
    site.ledger.add_sample(1, job)
    site.ledger.add_sample(1, attrs.evolve(job, memory_iteration=2, memory_remaining_bytes=40))

    class Told(list):
        def progress(self, _migration, progress):
            self.append(progress)

    told = Told()
    tell = teller(site.ledger, told)
    for iteration in (3, 4, 5, 6):
        tell(site.ledger.migration(1), attrs.evolve(job, memory_iteration=iteration))
    assert [one.trend for one in told] == ["converging"] * 2 + ["stalled since iteration 3"] * 2


def test_figures_are_told_although_the_ledger_can_t_be_asked_what_it_had(site, monkeypatch):
    """The driver tells them; a read that fails must not end its move."""
    left(site)
    monkeypatch.setattr(site.ledger, "last_sample", lambda _: (_ for _ in ()).throw(away(retryable=True)))
    told = []
    watch = type("Watch", (), {"progress": lambda _self, _migration, progress: told.append(progress)})()
    teller(site.ledger, watch)(site.ledger.migration(1), JobInfo(memory_total_bytes=1, memory_iteration=1))
    assert told[0].trend == "too early to tell"
