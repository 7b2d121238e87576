"""Samples of a job: which looks are kept, how many, and that keeping them neither loads nor needs anything else."""

import threading

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import LedgerUnusable, NotFound, TakenOver
from numaferry.ledger import samples
from numaferry.ledger.triggers import SAMPLES_OF_ENDED
from numaferry.model import JobInfo, MigrationStatus, Passes

MIB = 1 << 20


def job(iteration=1, left_mib=100, **more):
    return JobInfo(
        memory_total_bytes=512 * MIB,
        memory_remaining_bytes=left_mib * MIB,
        memory_iteration=iteration,
        **more,
    )


DONE = job(4, 0, completed=True, downtime_ms=12)
jobs = st.builds(
    JobInfo,
    memory_total_bytes=st.integers(0, 2),
    disk_total_bytes=st.integers(0, 2),
    memory_iteration=st.integers(0, 3),
    memory_bps=st.integers(0, 1),
    completed=st.booleans(),
)


@pytest.fixture
def moving(fleet, make):
    """The ledger with a guest of A that is on its way to B: migration 1."""
    guest = make.guest("db1", "A", "2-3")
    fleet.claim_instance(guest)
    fleet.live_migration_claim(guest.uuid, ["B"])
    return fleet


def aged(ledger, seconds):
    """Make every sample so much older."""
    with ledger._write() as connection:
        connection.exec_driver_sql(f"UPDATE migration_sample SET at = at - {seconds:f}")  # noqa: S608  (a number)


# -- which are due: pure ---------------------------------------------------------------------------------------------


@given(job=jobs, last=st.none() | jobs, age_s=st.floats(0, 100))
def test_law_at_most_one_in_ten_seconds_of_one_pass_but_for_the_first_that_has_a_bandwidth(job, last, age_s):
    kept = samples.due(job, last, age_s)
    if last is not None and age_s < samples.EVERY_S and last.completed == job.completed:
        assert not kept or job.memory_iteration != last.memory_iteration or job.memory_bps > last.memory_bps == 0


@given(last=jobs, seen=st.lists(jobs, max_size=9))
def test_law_of_looks_within_one_pass_and_ten_seconds_two_are_kept_at_most(last, seen):
    kept = 0
    for one in seen:
        look = attrs.evolve(one, memory_iteration=last.memory_iteration, completed=False)
        if samples.due(look, last, 1.0):
            kept, last = kept + 1, look
    assert kept <= 1


@given(job=jobs, last=st.none() | jobs, age_s=st.floats(0, 100))
def test_law_nothing_is_kept_before_the_first_byte_nor_after_the_end(job, last, age_s):
    if not (job.memory_total_bytes or job.disk_total_bytes) or (last is not None and last.completed):
        assert not samples.due(job, last, age_s)


@given(last=st.none() | jobs, age_s=st.floats(0, 100))
def test_law_the_last_figures_are_kept_once(last, age_s):
    assert samples.due(DONE, last, age_s) is (last is None or not last.completed)


# -- on both databases -----------------------------------------------------------------------------------------------


def test_what_was_seen_is_read_again_with_the_database_s_time(moving):
    seen = job(2, 37, memory_bps=5, disk_total_bytes=1 << 40, auto_converge_throttle=30)
    before = moving.now()
    assert moving.add_sample(1, seen) is True
    (sample,) = moving.samples(1)
    assert sample.job == seen
    assert before <= sample.at <= moving.now()
    assert moving.last_sample(1) == sample
    assert sample.passes == Passes(2, 2, 2, 37 * MIB)


def test_of_many_looks_one_is_kept_for_each_pass_or_ten_seconds(moving):
    for iteration in (1, 1, 1, 2, 2, 3):
        moving.add_sample(1, job(iteration))
    assert [one.job.memory_iteration for one in moving.samples(1)] == [1, 2, 3]
    aged(moving, samples.EVERY_S)
    assert moving.add_sample(1, job(3)) is True
    assert moving.add_sample(1, job(3)) is False


def test_a_look_without_a_bandwidth_is_followed_by_the_first_that_has_one(moving):
    """On real hosts the first look at a job has none, and for 10 s nothing could be told of the time left."""
    for bps in (0, 0, 7, 8):
        moving.add_sample(1, job(1, memory_bps=bps))
    assert [one.job.memory_bps for one in moving.samples(1)] == [0, 7]


def test_a_ledger_without_samples_says_so(moving):
    assert moving.samples(1) == ()
    assert moving.last_sample(1) is None
    assert moving.add_sample(1, JobInfo()) is False


def test_the_newest_are_kept_and_the_passes_that_were_dropped_still_count(moving, monkeypatch):
    monkeypatch.setattr(samples, "KEPT", 5)
    moving.add_sample(1, job(1, 10))
    for iteration in range(2, 12):
        moving.add_sample(1, job(iteration, 20))
    assert [one.job.memory_iteration for one in moving.samples(1)] == [7, 8, 9, 10, 11]
    assert moving.last_sample(1).passes == Passes(1, 11, 1, 10 * MIB)


def test_an_ended_migration_keeps_its_last_ones(moving):
    for iteration in range(1, SAMPLES_OF_ENDED + 10):
        moving.add_sample(1, job(iteration))
    moving.add_sample(1, DONE)
    moving.confirm_migration(1, status=MigrationStatus.COMPLETED)
    kept = moving.samples(1)
    assert len(kept) == SAMPLES_OF_ENDED
    assert kept[-1].job == DONE
    assert moving.add_sample(1, job(99)) is False


def test_one_that_is_given_up_keeps_them_too_and_others_are_left_alone(moving, make):
    other = make.guest("db2", "A", "4-5")
    moving.claim_instance(other)
    moving.live_migration_claim(other.uuid, ["B"])
    for iteration in range(1, SAMPLES_OF_ENDED + 10):
        moving.add_sample(1, job(iteration))
        moving.add_sample(2, job(iteration))
    moving.drop_move_claim(1, MigrationStatus.FAILED, "no")
    assert len(moving.samples(1)) == SAMPLES_OF_ENDED
    assert len(moving.samples(2)) == SAMPLES_OF_ENDED + 9


def test_a_controller_that_was_taken_over_keeps_nothing_more(moving):
    token = moving.take_lease(1, "one:1:1.1", 0.0, grace_s=0, key="one").token
    assert moving.add_sample(1, job(1), token=token) is True
    moving.take_lease(1, "two:2:2.1", 60.0, grace_s=0, key="two")
    with pytest.raises(TakenOver):
        moving.add_sample(1, job(2), token=token)
    assert len(moving.samples(1)) == 1


def test_a_migration_that_there_is_not_has_none(moving):
    with pytest.raises(NotFound):
        moving.add_sample(7, job())


def test_a_sample_changes_nothing_of_its_migration_and_writes_no_event(moving):
    before = moving.migration(1), moving.events()
    moving.add_sample(1, job())
    assert (moving.migration(1), moving.events()) == before


def test_a_ledger_that_can_t_be_written_is_tried_once(moving, monkeypatch):
    tries = []

    def away():
        tries.append(1)
        raise LedgerUnusable("away")

    monkeypatch.setattr(moving, "_write", away)
    with pytest.raises(LedgerUnusable):
        moving.add_sample(1, job())
    assert tries == [1]


def test_a_copy_for_a_dry_run_has_none(moving, tmp_path):
    moving.add_sample(1, job())
    moving.copy_to(tmp_path / "copy.sqlite")


def test_two_threads_keep_one_pass_once_on_sqlite_and_nothing_breaks_on_either(moving):
    """On PostgreSQL two may both see that it is due: one row more does no harm."""
    gate = threading.Barrier(2)

    def keep():
        gate.wait()
        for iteration in range(1, 11):
            moving.add_sample(1, job(iteration))

    threads = [threading.Thread(target=keep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    numbers = [one.number for one in moving.samples(1)]
    assert numbers == sorted(set(numbers))
    assert {one.job.memory_iteration for one in moving.samples(1)} == set(range(1, 11))


# -- passes: pure ----------------------------------------------------------------------------------------------------

looks = st.lists(st.builds(job, st.integers(1, 9), st.integers(0, 512)), max_size=30)


def after(seen):
    passes = Passes()
    for one in seen:
        passes = passes.observe(one)
    return passes


@given(looks)
def test_law_a_look_that_is_seen_twice_counts_once(seen):
    assert after(seen) == after([one for look in seen for one in (look, look)])


@given(looks)
def test_law_the_lowest_pass_is_one_that_was_seen(seen):
    passes = after(seen)
    if seen:
        assert passes.first_iteration <= passes.low_iteration <= passes.iteration == seen[-1].memory_iteration
        assert (passes.low_iteration, passes.low_bytes) in {
            (one.memory_iteration, one.memory_remaining_bytes) for one in seen
        }


@given(st.lists(st.integers(1, 511), min_size=2, unique=True))
def test_law_passes_that_shrink_lose_nothing(sizes):
    shrinking = sorted(sizes, reverse=True)
    assert after([job(at, left) for at, left in enumerate(shrinking, start=1)]).lost == 0


@given(st.integers(1, 9), st.integers(1, 512))
def test_law_passes_of_one_size_lose_all_but_the_first(count, left):
    assert after([job(at, left) for at in range(1, count + 1)]).lost == count - 1


def test_a_job_without_figures_and_one_that_has_ended_tell_nothing():
    known = after([job(3, 50)])
    assert known.observe(JobInfo()) == known
    assert known.observe(DONE) == known
    assert known.observe(attrs.evolve(job(3, 1))) == known, "a pass is measured when it is first seen"


def test_another_job_is_counted_from_its_own_beginning():
    assert after([job(5, 50), job(1, 400)]) == Passes(1, 1, 1, 400 * MIB)
