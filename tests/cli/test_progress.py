"""Progress in libvirt's words: honest figures, never 100 % while bytes remain."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.cli import progress
from numaferry.model import JobInfo, Migration, MigrationStatus

MIB = 1 << 20
sizes = st.integers(0, 1 << 45)


@given(total=sizes, remaining=sizes)
def test_100_percent_only_when_nothing_remains(total, remaining):
    job = JobInfo(memory_total_bytes=total, memory_remaining_bytes=remaining)
    shown = progress.percent(job)
    assert 0 <= shown <= 100
    if remaining:
        assert shown < 100
    elif total:
        assert shown == 100


@given(remaining=st.integers(1, 1 << 40))
def test_a_remainder_never_reads_as_nothing(remaining):
    job = JobInfo(memory_total_bytes=1 << 41, memory_remaining_bytes=remaining)
    assert "remaining 0 of" not in progress.figures(job)


@pytest.mark.parametrize(
    ("bps", "dirty_pages", "words"),
    [
        (100 * MIB, 0, "about 10.0 s left"),
        (100 * MIB, 12800, "about 20.0 s left"),
        (100 * MIB, 25600, "no end in sight: dirty rate exceeds bandwidth"),
        (0, 0, "time left unknown"),
    ],
)
def test_the_time_left_is_honest(bps, dirty_pages, words):
    job = JobInfo(
        memory_total_bytes=2000 * MIB,
        memory_remaining_bytes=1000 * MIB,
        memory_bps=bps,
        memory_dirty_rate=dirty_pages,
        memory_page_size_bytes=4096,
    )
    assert progress.eta(job) == words


def test_without_a_terminal_each_step_is_one_line_and_figures_come_now_and_then(capsys):
    watch = progress.PlainWatch()
    move = Migration(3, "u", "i", "a", "b", MigrationStatus.RUNNING, step="live_migration")
    job = JobInfo(memory_total_bytes=100 * MIB, memory_remaining_bytes=50 * MIB, memory_iteration=2)
    watch.progress(move, None)
    for _ in range(20):
        watch.progress(move, job)
    watch.progress(attrs.evolve(move, status=MigrationStatus.POST_MIGRATING, step="post_live_migration"), None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "migration 3: running live_migration",
        "migration 3: post-migrating post_live_migration",
    ]


def test_a_destination_that_was_being_prepared_read_as_0_of_0_mib_switching(capsys, monkeypatch):
    """A job of libvirt's begins before the destination's QEMU is up; nothing is copied then, and nothing switches."""
    watch = progress.PlainWatch()
    move = Migration(3, "u", "i", "a", "b", MigrationStatus.RUNNING, step="live_migration")
    times = iter(range(0, 100, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))
    for _ in range(5):
        watch.progress(move, JobInfo())
    assert capsys.readouterr().err == "migration 3: running live_migration, preparing the destination\n"


def test_the_bar_can_be_drawn_and_closed_twice():
    watch = progress.BarWatch()
    watch.close()
    watch.close()
