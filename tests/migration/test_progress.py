"""Progress: laws that no figures can break, and the words for those that a migration has."""

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numaferry.migration import progress
from numaferry.migration.progress import STALLED_AFTER
from numaferry.model import JobInfo, Passes

MIB = 1 << 20
PAGE = 4096
sizes = st.integers(0, 1 << 45)
rates = st.integers(0, 1 << 36)
jobs = st.builds(
    JobInfo,
    memory_total_bytes=sizes,
    memory_processed_bytes=sizes,
    memory_remaining_bytes=sizes,
    memory_bps=rates,
    memory_dirty_rate=st.integers(0, 1 << 24),
    memory_page_size_bytes=st.just(PAGE),
    memory_iteration=st.integers(0, 99),
    downtime_ms=st.integers(0, 9999),
    disk_total_bytes=sizes | st.just(0),
    disk_remaining_bytes=sizes | st.just(0),
    disk_bps=rates,
    auto_converge_throttle=st.integers(0, 99),
    postcopy_requests=st.integers(0, 3),
    completed=st.booleans(),
)
memory_alone = jobs.map(
    lambda job: attrs.evolve(
        job, disk_total_bytes=0, disk_remaining_bytes=0, memory_total_bytes=job.memory_total_bytes + 1
    )
)


def job(**more):
    return JobInfo(
        **{
            "memory_total_bytes": 2000 * MIB,
            "memory_remaining_bytes": 1000 * MIB,
            "memory_bps": 100 * MIB,
            "memory_page_size_bytes": PAGE,
            "memory_iteration": 2,
            **more,
        }
    )


def pages(mib):
    return mib * MIB // PAGE


# -- percent ---------------------------------------------------------------------------------------------------------


@given(jobs)
def test_law_never_100_percent_while_bytes_of_memory_or_disk_remain(job):
    shown = progress.percent(job)
    assert 0 <= shown <= 100
    if progress.remaining_bytes(job):
        assert shown < 100
    elif job.memory_total_bytes or job.disk_total_bytes or job.completed:
        assert shown == 100


@given(jobs, sizes)
def test_law_less_remaining_is_never_less_percent(job, fewer):
    less = attrs.evolve(job, memory_remaining_bytes=min(fewer, job.memory_remaining_bytes))
    assert progress.percent(less) >= progress.percent(job)


# -- time left -------------------------------------------------------------------------------------------------------


@given(memory_alone)
def test_law_there_is_no_time_left_iff_the_dirty_rate_reaches_the_bandwidth(job):
    assume(job.memory_remaining_bytes and job.memory_bps)
    none = progress.eta(job).words.startswith("none")
    assert none == (progress.dirty_bps(job) >= job.memory_bps)


@given(jobs)
def test_law_a_time_left_is_told_with_what_it_rests_on_and_is_none_or_positive(job):
    seconds, words = progress.eta(job)
    assert words
    if seconds:
        assert seconds > 0
        assert words.startswith("about ")
        assert " left, " in words
        assert "MiB/s" in words
    elif seconds is None:
        assert words.partition(":")[0] in {"none", "unknown", "preparing the destination"}
    else:
        assert progress.remaining_bytes(job) == 0


@given(memory_alone, st.integers(1, 1 << 30))
def test_law_a_guest_that_dirties_more_takes_longer_or_has_no_end(job, more):
    assume(job.memory_remaining_bytes and not job.postcopy_requests)
    quiet = progress.eta(job).seconds
    busy = progress.eta(attrs.evolve(job, memory_dirty_rate=job.memory_dirty_rate + more)).seconds
    assert busy is None or (quiet is not None and busy >= quiet)


@given(memory_alone)
def test_law_in_post_copy_nothing_is_dirtied_on_the_source(job):
    job = attrs.evolve(job, postcopy_requests=1, memory_remaining_bytes=1, memory_bps=1)
    assert progress.eta(job).seconds == 1


@given(jobs)
def test_law_no_time_left_is_told_of_a_job_that_does_not_run(job):
    ended = progress.progress_of(job, Passes(), running=False)
    assert (ended.eta_s, ended.eta) == (None, "")
    completed = progress.progress_of(attrs.evolve(job, completed=True), Passes())
    assert (completed.eta_s, completed.eta) == (None, "")


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, "about 10 s left, at 100 MiB/s"),
        ({"memory_dirty_rate": pages(20)}, "about 13 s left, at 100 MiB/s less 20 MiB/s dirtied"),
        ({"memory_dirty_rate": pages(100)}, "none: dirty rate exceeds bandwidth"),
        ({"memory_dirty_rate": pages(100), "postcopy_requests": 7}, "about 10 s left, at 100 MiB/s"),
        ({"memory_bps": 0}, "unknown: nothing is being sent"),
        ({"memory_remaining_bytes": 0}, "switching"),
        ({"memory_total_bytes": 0}, "preparing the destination"),
        ({"memory_bps": 2 * MIB}, "about 8 min 20 s left, at 2.0 MiB/s"),
        (
            {"disk_total_bytes": 9000 * MIB, "disk_remaining_bytes": 9000 * MIB, "disk_bps": 2 * MIB},
            "about 1 h 15 min left, the disk at 2.0 MiB/s",
        ),
        ({"disk_total_bytes": MIB, "disk_remaining_bytes": MIB, "disk_bps": 50 * MIB}, "about 10 s left, at 100 MiB/s"),
        ({"disk_total_bytes": MIB, "disk_remaining_bytes": MIB}, "unknown: nothing is being sent"),
    ],
)
def test_the_time_left_says_what_it_rests_on(figures, words):
    assert progress.eta(job(**figures)).words == words


@given(st.floats(0, 1e9))
def test_law_a_span_is_rounded_up_and_never_nothing(seconds):
    words = progress.span(seconds).split()
    size = {"h": 3600, "min": 60, "s": 1}
    told = sum(int(number) * size[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert max(1, seconds) <= told < seconds + 61


# -- trend -----------------------------------------------------------------------------------------------------------


def after(sizes):
    """The passes that began with so many MiB each."""
    passes = Passes()
    for at, left in enumerate(sizes, start=1):
        passes = passes.observe(job(memory_iteration=at, memory_remaining_bytes=left * MIB))
    return passes


@given(st.lists(st.integers(1, 999), min_size=2, max_size=20, unique=True))
def test_law_passes_that_shrink_converge(sizes):
    assert progress.trend(job(), after(sorted(sizes, reverse=True))) == "converging"


@given(st.lists(st.integers(1, 999), max_size=20))
def test_law_stalled_is_said_iff_so_many_passes_gained_nothing_on_the_shortest_one(sizes):
    passes = after(sizes)
    since = progress.stalled_since(passes)
    gained_nothing = len(sizes) - 1 - sizes.index(min(sizes)) if sizes else 0
    assert (since > 0) == (gained_nothing >= STALLED_AFTER)
    if since:
        assert since == sizes.index(min(sizes)) + 2
        assert progress.trend(job(), passes) == f"stalled since iteration {since}"


@pytest.mark.parametrize(
    ("sizes", "figures", "words"),
    [
        ([], {}, ""),
        ([900], {}, "too early to tell"),
        ([900, 300], {}, "converging"),
        ([900, 300, 310, 305], {}, "converging"),
        ([900, 300, 310, 305, 300], {}, "stalled since iteration 3"),
        ([900, 300, 310, 305, 300, 200], {}, "converging"),
        ([900, 300, 310, 305, 300], {"postcopy_requests": 1}, "post-copy"),
        ([900, 300, 310, 305, 300], {"completed": True}, "completed"),
    ],
)
def test_the_trend_in_words(sizes, figures, words):
    assert progress.trend(job(**figures), after(sizes)) == words


def test_a_job_that_is_adopted_in_the_middle_is_not_judged_by_its_first_look():
    assert progress.trend(job(), Passes().observe(job(memory_iteration=7))) == "too early to tell"


# -- words -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 1 << 45))
def test_law_neither_a_remainder_nor_a_slow_copy_reads_as_nothing(some):
    assert progress.mib(some) > 0
    assert float(progress.rate(some).removesuffix(" MiB/s")) > 0


@given(jobs, st.booleans())
def test_law_every_line_is_one_line_without_an_empty_part(job, running):
    made = progress.progress_of(job, Passes().observe(job), running=running)
    for line in (progress.told(made), progress.brief(made)):
        assert "\n" not in line
        assert ", ," not in line
        assert not line.endswith(", ")


def test_a_line_has_what_virsh_domjobinfo_prints_and_the_trend():
    seen = job(
        memory_processed_bytes=1500 * MIB,
        memory_dirty_rate=pages(20),
        downtime_ms=300,
        auto_converge_throttle=30,
        memory_iteration=6,
    )
    assert progress.told(progress.progress_of(seen, Passes(1, 6, 2, 900 * MIB))) == (
        "50 %, memory processed 1500 MiB, remaining 1000 of 2000 MiB, bandwidth 100 MiB/s, dirty rate 20 MiB/s,"
        " iteration 6, expected downtime 300 ms, auto-converge throttle 30 %, stalled since iteration 3,"
        " about 13 s left, at 100 MiB/s less 20 MiB/s dirtied"
    )


def test_a_line_of_a_job_with_disks_and_in_post_copy_says_so():
    seen = job(disk_total_bytes=100 * MIB, disk_remaining_bytes=MIB, disk_bps=9 * MIB, postcopy_requests=12)
    words = progress.told(progress.progress_of(seen, Passes()))
    assert "disk remaining 1 of 100 MiB, disk bandwidth 9.0 MiB/s" in words
    assert "post-copy requests 12, post-copy, about" in words


def test_a_line_of_a_job_that_has_completed_tells_what_was_measured():
    seen = job(memory_processed_bytes=2100 * MIB, memory_remaining_bytes=0, downtime_ms=12, completed=True)
    assert progress.told(progress.progress_of(seen, Passes())) == (
        "100 %, memory processed 2100 MiB, remaining 0 of 2000 MiB, iteration 2, downtime 12 ms"
    )


def test_a_line_without_an_end_says_what_there_is_none_of():
    seen = progress.progress_of(job(memory_dirty_rate=pages(200)), Passes(1, 2, 2, 900 * MIB))
    assert progress.told(seen).endswith(", converging, time left none: dirty rate exceeds bandwidth")
    assert progress.brief(seen) == "1000/2000 MiB left, dirty rate exceeds bandwidth"


def test_beside_a_bar_there_is_room_for_what_matters():
    """With all figures the bar itself went from a terminal of 100 columns, once a job had stalled."""
    seen = job(memory_dirty_rate=pages(20), memory_iteration=6)
    well = progress.progress_of(seen, Passes(1, 6, 6, 900 * MIB))
    stalled = progress.progress_of(seen, Passes(1, 6, 2, 900 * MIB))
    assert progress.brief(well) == "1000/2000 MiB left, 100 MiB/s, about 13 s left"
    assert progress.brief(stalled) == "1000/2000 MiB left, stalled since iteration 3"
    assert progress.brief(progress.progress_of(seen, Passes(), running=False)) == "1000/2000 MiB left, 100 MiB/s"


def test_before_anything_is_copied_it_does_not_read_as_0_of_0_mib():
    assert progress.told(progress.progress_of(JobInfo(), Passes())) == "preparing the destination"
