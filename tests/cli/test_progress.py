"""How progress is told: lines, a bar, never twice the same; the figures are tests/migration/test_progress.py's."""

import attrs
import pytest

from numaferry.cli import progress
from numaferry.migration.progress import progress_of, told
from numaferry.model import JobInfo, Migration, MigrationStatus, Passes
from numaferry.service.views import EventLine, WatchLine

MIB = 1 << 20
MOVE = Migration(3, "u", "i", "a", "b", MigrationStatus.RUNNING, step="live_migration")
JOB = JobInfo(memory_total_bytes=100 * MIB, memory_remaining_bytes=50 * MIB, memory_bps=MIB, memory_iteration=2)
SEEN = progress_of(JOB, Passes().observe(JOB))
LINE = WatchLine(3, "db1", "a", "b", "running", "live_migration", "", "c", SEEN, (), "")


@pytest.fixture
def slow(monkeypatch):
    """Time goes on by 3 s at each look."""
    times = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))


def test_without_a_terminal_each_step_is_one_line_and_figures_come_now_and_then(capsys):
    watch = progress.PlainWatch()
    watch.progress(MOVE, None)
    for _ in range(20):
        watch.progress(MOVE, SEEN)
    watch.progress(attrs.evolve(MOVE, status=MigrationStatus.POST_MIGRATING, step="post_live_migration"), None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "migration 3: running live_migration",
        "migration 3: post-migrating post_live_migration",
    ]


def test_a_destination_that_was_being_prepared_read_as_0_of_0_mib_switching(capsys, slow):
    """A job of libvirt's begins before the destination's QEMU is up; nothing is copied then, and nothing switches."""
    watch = progress.PlainWatch()
    for _ in range(5):
        watch.progress(MOVE, progress_of(JobInfo(), Passes()))
    assert capsys.readouterr().err == "migration 3: running live_migration, preparing the destination\n"


def test_what_migrate_and_watch_tell_of_one_look_are_the_same_words(capsys, slow):
    driver, watcher = progress.PlainWatch(), progress.PlainWatch(answer=True)
    driver.progress(MOVE, SEEN)
    watcher.look(LINE)
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"migration 3: running live_migration, {told(SEEN)}"]
    assert out.splitlines() == ["migration 3: db1 from a to b, running", *err.splitlines()]


def test_events_and_notes_stand_before_the_state_that_they_led_to(capsys, slow):
    watch = progress.PlainWatch(answer=True)
    watch.look(attrs.evolve(LINE, events=(EventLine(1.0, "migration", "it goes on"),), note="nobody drives it"))
    assert capsys.readouterr().out.splitlines()[:3] == [
        "migration 3: db1 from a to b, running",
        "migration 3: it goes on",
        "migration 3: nobody drives it",
    ]


def test_figures_of_a_moment_ago_are_not_told_of_a_step_after_them(capsys, slow):
    watch = progress.PlainWatch(answer=True)
    watch.look(attrs.evolve(LINE, status="post-migrating", step="post_live_migration"))
    assert capsys.readouterr().out.splitlines()[-1] == "migration 3: post-migrating post_live_migration"


@pytest.mark.parametrize("answer", [True, False])
def test_the_bar_goes_where_the_answer_goes(answer, capsys):
    watch = progress.BarWatch(answer=answer)
    watch.look(attrs.evolve(LINE, events=(EventLine(1.0, "migration", "it goes on"),)))
    watch.look(attrs.evolve(LINE, status="completed", step="done"))
    watch.close()
    out, err = capsys.readouterr()
    drawn, silent = (out, err) if answer else (err, out)
    assert silent == ""
    assert "it goes on" in drawn
    assert "completed" in drawn


def test_the_bar_can_be_drawn_and_closed_twice():
    watch = progress.BarWatch()
    watch.close()
    watch.close()


def test_an_object_is_one_line(capsys):
    progress.JsonLines().look(LINE)
    assert capsys.readouterr().out.count("\n") == 1
