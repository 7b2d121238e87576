"""One change of a lab at a time: the second is refused and told who is at it; a dead holder holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from numaferry.errors import Conflict, InvalidInput
from numaferry.lab.place import lab_directory, locked
from numaferry.xdg import cache_directory

HOLDER = """
import sys
from pathlib import Path
from numaferry.lab.place import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with hold(tmp_path / "lab") as holder:
        with pytest.raises(Conflict, match=f"process {holder.pid} "), locked(tmp_path / "lab"):
            pass
        holder.communicate()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with hold(tmp_path / "lab") as holder:
        holder.kill()
        holder.communicate()
    with locked(tmp_path / "lab"):
        assert (tmp_path / "lab/lock").exists()


def test_an_empty_place_is_removed_and_one_with_content_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "empty"):
        pass
    with locked(tmp_path / "full"):
        (tmp_path / "full/logs").mkdir()
    assert not (tmp_path / "empty").exists()
    assert (tmp_path / "full/logs").exists()


def test_directories_follow_xdg_and_ignore_relative_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert lab_directory("x") == tmp_path / "numaferry/lab/x"
    assert cache_directory().is_absolute()


@pytest.mark.parametrize("name", ["", "../up", "a b", "UP", "-x", "x" * 32])
def test_a_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="lab name"):
        lab_directory(name)
