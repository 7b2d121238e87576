"""The journal survives being killed at any byte, and teardown releases what it knows, once or ten times."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numaferry.lab import journal as journal_module
from numaferry.lab.journal import Journal
from numaferry.lab.resources import make_directory, teardown


def test_what_was_intended_is_outstanding_until_released(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    first = journal.intend("netns", name="one")
    journal.intend("link", name="two")
    journal.released(first)
    again = Journal(tmp_path / "journal")
    assert [(each.kind, each.facts) for each in again.outstanding()] == [("link", {"name": "two"})]


def test_facts_learned_later_join_the_intent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.amend(journal.intend("process", token="t"), pid=7)  # noqa: S106 - a mark to find processes by, no secret
    assert Journal(tmp_path / "journal").outstanding()[0].facts == {"token": "t", "pid": 7}


@settings(deadline=None)  # every line waits for the disk
@given(cut=st.integers(min_value=0))
def test_cut_at_any_byte_it_still_reads_and_writes(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    for number in range(4):
        journal.intend("link", name=f"l{number}")
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    kept = [each.facts["name"] for each in Journal(path).outstanding()]
    assert kept == [f"l{number}" for number in range(len(kept))]
    Journal(path).intend("link", name="new")
    assert [each.facts["name"] for each in Journal(path).outstanding()] == [*kept, "new"]


def test_teardown_goes_backwards_and_twice_is_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    outer = make_directory(journal, tmp_path / "outer")
    make_directory(journal, outer / "inner")
    assert teardown(journal) == ()
    assert teardown(journal) == ()
    assert not outer.exists()


def test_what_refuses_stays_recorded_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal")
    stubborn = make_directory(journal, tmp_path / "stubborn")
    other = make_directory(journal, tmp_path / "other")
    monkeypatch.setattr("numaferry.lab.resources.mounts_below", lambda path: ["/x"] if path == stubborn else [])
    (told,) = teardown(journal)
    assert "stubborn" in told
    assert not other.exists()
    assert [each.facts["path"] for each in Journal(tmp_path / "journal").outstanding()] == [str(stubborn)]


def test_after_a_reboot_only_what_lies_on_disk_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal")
    lasting = make_directory(journal, tmp_path / "lasting")
    # a process of this boot that bears, by chance, the pid and start time of one of the earlier boot
    own_start = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    journal.amend(journal.intend("process", token="none", command="x"), pid=os.getpid(), start=own_start)  # noqa: S106 - a mark to find processes by, no secret
    monkeypatch.setattr(journal_module, "boot_id", lambda: "another boot")
    assert teardown(Journal(tmp_path / "journal")) == ()
    assert not lasting.exists()


CREATOR = """
import os, signal, sys
from pathlib import Path
from numaferry.lab.journal import Journal
from numaferry.lab.network import make_network, new_id
from numaferry.lab.processes import spawn
from numaferry.lab.resources import make_directory, make_mount

where = Path(sys.argv[1])
journal = Journal(where / "journal")
work = make_directory(journal, where / "work")
network = make_network(journal, new_id())
print(network.lab_id, flush=True)
(work / "mnt").mkdir()
make_mount(journal, work / "mnt", ["-t", "tmpfs", "none"])
spawn(journal, ["sh", "-c", f"sleep 300 & : {where}; wait"], log=work / "x.log", netns=network.netns)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces and mounts")
def test_nothing_is_left_after_the_creator_was_killed(tmp_path: Path, traces: Callable[..., list[str]]) -> None:
    made = subprocess.run(
        [sys.executable, "-c", CREATOR, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == -signal.SIGKILL, made.stderr
    marks = (made.stdout.strip(), str(tmp_path))
    found = " ".join(traces(*marks))
    assert all(kind in found for kind in ("process", "link", "netns", "mount"))
    assert teardown(Journal(tmp_path / "journal")) == ()
    assert traces(*marks) == []
    assert not (tmp_path / "work").exists()
