"""A lab host that hangs while booting is started anew, a limited number of times, and that is said."""

import os
import time

import pytest

from numaferry.errors import HostUnreachable
from numaferry.lab.boot import ATTEMPTS, STALL_S, Boot
from numaferry.lab.processes import Process, kill, start_of


class Site:
    """What `Boot` needs of a site: somewhere to tell."""

    def __init__(self):
        self.told = []

    def say(self, line):
        self.told.append(line)


def sleeper():
    pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    return Process(pid=pid, start=start_of(pid))


@pytest.fixture
def boot(tmp_path):
    made = []

    def again(hung):
        kill(hung)
        made.append(sleeper())
        return made[-1]

    made.append(sleeper())
    yield Boot(name="beta", uri="qemu+tcp://192.0.2.1/system", directory=tmp_path, process=made[0], again=again)
    for process in made:
        kill(process)


def silent(boot):
    boot.progress_at_s = time.monotonic() - STALL_S - 1


def test_a_silent_host_is_ended_and_started_anew_and_that_is_said(boot):
    site, first = Site(), boot.process
    silent(boot)
    boot.step(site)
    assert not first.alive
    assert boot.process.alive
    assert site.told == ["beta: hangs before its kernel said anything; starting it anew"]


def test_a_stage_is_progress_and_what_was_reached_is_named(boot):
    site = Site()
    silent(boot)
    (boot.directory / "console.log").write_text("NUMAFERRY kernel 4.5\n", encoding="utf-8")
    boot.step(site)
    assert site.told == ["beta: kernel"]
    silent(boot)
    boot.step(site)
    assert site.told[-1] == "beta: hangs after kernel; starting it anew"
    assert boot.stages == set()


def test_a_host_that_always_hangs_is_given_up_with_what_to_do(boot):
    site = Site()
    for _ in range(ATTEMPTS - 1):
        silent(boot)
        boot.step(site)
    silent(boot)
    with pytest.raises(HostUnreachable, match=f"in each of {ATTEMPTS} attempts") as raised:
        boot.step(site)
    assert "LAB=namespaces" in raised.value.hint
