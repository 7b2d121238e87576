"""A namespaces lab leaves nothing behind: after `down`, after a failed `up`, and after its maker was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from numaferry.errors import EnvironmentLacking, InvalidInput
from numaferry.lab import control, namespaces
from numaferry.lab.guests import BridgeNic, GuestCell, GuestSpec, SerialWatch, domain_xml, put_in_share
from numaferry.lab.processes import TOKEN_NAME, Process, start_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.lab.model import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for a lab of the test's own; brought down in any case."""
    where = tmp_path / "lab"
    yield where
    control.down(directory=where)


def traces(marks: list[str]) -> list[str]:
    """Return the links, namespaces, mounts and processes of this machine in which one of `marks` appears."""
    links = [f"link {link['ifname']}" for link in json.loads(subprocess.check_output(["ip", "-j", "link", "show"]))]
    spaces = [f"netns {path.name}" for path in Path("/run/netns").glob("*")]
    mounts = [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes() + b" " + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        processes.append(f"process {entry.name} {told.decode(errors='replace')}")
    return [each for each in links + spaces + mounts + processes if any(mark in each for mark in marks)]


def marks_of(where: Path) -> list[str]:
    """Return by what a lab's traces are known: its directory, its id, and the tokens of its processes."""
    journal = [json.loads(line) for line in (where / control.JOURNAL_NAME).read_text().splitlines()]
    facts = [entry["facts"] for entry in journal if "facts" in entry]
    names = [fact["name"] for fact in facts if "name" in fact]
    tokens = [f"{TOKEN_NAME}={fact['token']}" for fact in facts if "token" in fact]
    return [str(where), *names, *tokens]


def processes_inside(lab: Lab) -> list[Process]:
    """Return every process of the hosts, found by the PID namespace it is in."""
    spaces = {Path(f"/proc/{host.process.pid}/ns/pid").readlink() for host in lab.hosts}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            space, start = (entry / "ns/pid").readlink(), start_of(int(entry.name))
        except OSError:
            continue
        if space in spaces and start is not None:
            found.append(Process(pid=int(entry.name), start=start))
    return found


def test_nothing_is_left_after_down_with_a_guest_still_running(place: Path) -> None:
    lab = control.up("namespaces", directory=place)
    SerialWatch.of_new(lab.share / "g.serial")
    spec = GuestSpec(
        name="g",
        image=put_in_share(lab, "tiny"),
        serial=lab.hosts[0].share / "g.serial",
        cells=(GuestCell("0", 16),),
        nics=(BridgeNic("labbr0", "52:54:00:00:09:01"),),
    )
    connection: Any = libvirt.open(lab.hosts[0].uri)
    connection.createXML(domain_xml(spec))
    connection.close()
    marks, inside = marks_of(place), processes_inside(lab)
    assert len(inside) >= 5
    assert len(traces(marks)) >= 6

    assert control.down(directory=place)

    assert [process for process in inside if process.alive] == []
    assert traces(marks) == []
    assert not place.exists()
    assert not control.down(directory=place)


@pytest.mark.parametrize("entries", [3, 5, 6, 8, 10])
def test_what_a_killed_up_left_is_cleaned_by_down(place: Path, entries: int) -> None:
    script = "import sys, pathlib; from numaferry.lab import up; up('namespaces', directory=pathlib.Path(sys.argv[1]))"
    maker = subprocess.Popen([sys.executable, "-c", script, str(place)])
    journal, deadline = place / control.JOURNAL_NAME, time.monotonic() + 30
    while not journal.exists() or len(journal.read_bytes().splitlines()) < entries:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    marks = marks_of(place)
    assert control.status(directory=place).outstanding

    control.down(directory=place)

    assert traces(marks) == []
    assert not place.exists()


def test_an_up_after_a_killed_one_cleans_up_first(place: Path) -> None:
    first = control.up("namespaces", directory=place)
    marks = marks_of(place)
    os.kill(first.hosts[0].process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while control.status(directory=place).state == "up":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert control.status(directory=place).state == "broken"

    second = control.up("namespaces", directory=place)

    assert traces(sorted(set(marks) - {str(place)})) == []
    assert second.lab_id != first.lab_id
    assert all(host.alive for host in second.hosts)


def test_a_libvirtd_that_never_comes_is_told_with_its_log_and_nothing_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numaferry.lab.namespaces_files.LIBVIRTD_CONF", "this is no configuration {address}{host_uuid}")
    with pytest.raises(EnvironmentLacking, match=r"alpha.* (does not answer|ended at once)") as told:
        control.up("namespaces", directory=place)
    kept = place / control.FAILED_NAME
    assert str(kept) in told.value.hint
    assert "libvirtd ended with" in (kept / "alpha-first.log").read_text()
    assert traces([str(place)]) == []


@pytest.mark.parametrize(
    "notations", [["this machine"], ["this machine", "2 cells x 2 cores, 1G"], ["this machine"] * 5]
)
def test_hosts_that_namespaces_can_not_make_are_refused_before_anything_is_made(notations: list[str]) -> None:
    with pytest.raises(InvalidInput, match="2 to 4 hosts"):
        namespaces.check(notations)
