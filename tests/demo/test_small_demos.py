"""The smaller demos run as a user runs them; spoiled, they end non-zero; every line says which kind they are."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from numaferry.lab import lab_directory


def demo(**environment):
    return subprocess.run(
        [sys.executable, "-m", "numaferry.demo"],
        env={**os.environ, "KEEP": "", "SABOTAGE": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_simulated_demo_passes_and_every_line_is_labelled():
    ran = demo(LAB="simulated")
    assert ran.returncode == 0, ran.stderr
    assert "PROOF 1" in ran.stdout
    assert all(line.startswith("[simulated] ") for line in ran.stdout.splitlines())


def test_a_reader_that_goes_away_ends_the_demo_without_a_traceback():
    words = f"{sys.executable} -m numaferry.demo | head -n 1"
    ran = subprocess.run(  # noqa: S602 - the pipe is what is tested
        words,
        shell=True,
        env={**os.environ, "LAB": "simulated"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.stdout.startswith("[simulated] ")
    assert "nobody reads" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_spoiled_simulated_demo_fails():
    ran = demo(LAB="simulated", SABOTAGE="1")
    assert ran.returncode != 0
    assert "runs on no host" in ran.stderr


@pytest.mark.parametrize(("variable", "value"), [("LAB", "cloud"), ("SABOTAGE", "99")])
def test_an_unknown_word_is_refused_before_anything_starts(variable, value):
    ran = demo(**{"LAB": "simulated", variable: value})
    assert ran.returncode == 2
    assert f"{variable}={value}" in ran.stderr
    assert "hint:" in ran.stderr


def test_a_second_demo_does_not_take_the_first_ones_lab_down(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    place = lab_directory("demo")
    place.mkdir(parents=True)
    with (place / "playing").open("w", encoding="ascii") as first:
        first.write("4711")
        first.flush()
        fcntl.flock(first, fcntl.LOCK_EX)
        ran = demo(LAB="simulated", XDG_STATE_HOME=str(tmp_path))
    assert ran.returncode == 3
    assert "another demo is playing" in ran.stderr
    assert "process 4711" in ran.stderr


@pytest.mark.lab
def test_namespaces_demo_passes_each_proof_fails_when_spoiled_and_nothing_is_left():
    before = links()
    ran = demo(LAB="namespaces", SABOTAGE="each")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr
    assert [f"proof {n} failed as it must" in ran.stdout for n in range(1, 5)] == [True] * 4
    assert "4 of 4 proofs hold" in ran.stdout
    assert links() == before


@pytest.mark.lab
def test_one_spoiled_proof_ends_the_namespaces_demo_non_zero():
    ran = demo(LAB="namespaces", SABOTAGE="3")
    assert ran.returncode == 1
    assert "SABOTAGE: spoiling proof 3" in ran.stdout
    assert "no frame from" in ran.stderr


def links():
    """Every link and named network namespace of this machine."""
    folders = (Path("/sys/class/net"), Path("/run/netns"))
    return [sorted(path.name for path in folder.glob("*")) for folder in folders]
