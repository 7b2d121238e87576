"""Only processes that the lab started are ended, by pid and start time or by their token, never by a pid alone."""

import subprocess
import time
from pathlib import Path

from numaferry.lab.journal import Journal
from numaferry.lab.processes import Process, end_process, spawn, start_of
from numaferry.lab.resources import teardown


def test_a_recycled_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        journal = Journal(tmp_path / "journal")
        start = start_of(stranger.pid)
        assert start is not None
        resource = journal.amend(journal.intend("process", token="nobody's"), pid=stranger.pid, start=start - 1)  # noqa: S106 - a mark to find processes by, no secret
        end_process(resource)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_children_that_left_the_session_are_ended_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    told = tmp_path / "pid"
    process = spawn(journal, ["sh", "-c", f"setsid sleep 60 & echo $! > {told}; wait"], log=tmp_path / "log")
    deadline = time.monotonic() + 10
    while not (told.exists() and told.read_text(encoding="ascii").strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(told.read_text(encoding="ascii"))
    assert process.alive
    assert start_of(child)
    assert teardown(journal) == ()
    assert not process.alive
    assert start_of(child) is None


def test_a_process_whose_pid_was_never_recorded_is_found_by_its_token(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    process = spawn(journal, ["sleep", "60"], log=tmp_path / "log")
    lines = (tmp_path / "journal").read_text(encoding="utf-8").splitlines(keepends=True)
    assert "pid" in lines[-1]
    (tmp_path / "journal").write_text("".join(lines[:-1]), encoding="utf-8")
    assert teardown(Journal(tmp_path / "journal")) == ()
    assert not process.alive


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    start = Process(pid=child.pid, start=start_of(child.pid) or 0)
    deadline = time.monotonic() + 10
    while start.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not start.alive
    child.wait()
