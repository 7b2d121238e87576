"""Labs for the tests of every room: each kind is brought up at most once per test run, and down again at its end."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest
from attrs import frozen

from numaferry.errors import EnvironmentLacking
from numaferry.lab import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numaferry.lab.model import Kind, Lab

# how many test runs may share this machine
SLOTS = 16
# two cells with SMT, and a host that differs in all of it
HOSTS = ("2 cells x 2 cores x 2 threads, 1536M, 2M:128", "2 cells x 4 cores, 1G, 2M:64")


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def traces_of(*marks: str) -> list[str]:
    """List what on this machine bears one of `marks` (a lab's id, its directory), not asking any journal."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            told = _read(entry / "cmdline") + _read(entry / "mountinfo")
            found += [f"process {entry.name} bears {mark}" for mark in marks if mark.encode() in told]
    found += [f"link {link['ifname']}" for link in json.loads(_output("ip", "-j", "link"))]
    found += [f"netns {line.split()[0]}" for line in _output("ip", "netns").splitlines()]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    return [line for line in found if any(mark in line for mark in marks)]


@pytest.fixture(scope="session")
def traces() -> Callable[..., list[str]]:
    """Return the function that lists what on this machine bears a mark; other labs may run at the same time."""
    return traces_of


@frozen
class TimedLab:
    """A lab and the seconds that its `up` took."""

    lab: Lab
    up_s: float


def lab_of_kind(kind: Kind, name: str, notations: tuple[str, ...] = ()) -> Iterator[TimedLab]:
    """Bring a lab up, hand it out, bring it down and look for what it left; skip where this machine can't carry one."""
    control.down(name=name)
    began = time.monotonic()
    try:
        lab = control.up(kind, name=name, notations=notations, say=print)
    except EnvironmentLacking as error:
        pytest.skip(f"no lab of kind {kind} here: {error.message}")
    try:
        yield TimedLab(lab=lab, up_s=time.monotonic() - began)
    finally:
        control.down(name=name)
        assert traces_of(lab.lab_id, str(lab.directory)) == []
        assert not lab.directory.exists()


def clear_guests(lab: Lab) -> None:
    """Destroy and undefine every guest on every host of the lab."""
    for host in lab.hosts:
        connection: Any = libvirt.open(host.uri)
        for domain in connection.listAllDomains():
            persistent = domain.isPersistent()
            if domain.isActive():
                domain.destroy()
            if persistent:
                domain.undefine()
        connection.close()


@pytest.fixture(scope="session")
def lab_name() -> Iterator[str]:
    """A lab name that no other test run on this machine uses now; a run that was killed leaves it to the next one."""
    for slot in range(SLOTS):
        with socket.socket(socket.AF_UNIX) as guard:
            try:
                guard.bind(f"\0numaferry-test-slot-{slot}")
            except OSError:
                continue
            yield f"test-{slot}"
            return
    pytest.fail(f"{SLOTS} test runs are on this machine already")


@pytest.fixture(scope="session")
def hosts_lab(lab_name: str) -> Iterator[Lab]:
    """A lab of two QEMU hosts, `alpha` and `beta`, for the whole run; leave no domain behind in it."""
    for timed in lab_of_kind("hosts", f"{lab_name}-hosts", HOSTS):
        yield timed.lab


@pytest.fixture(scope="session")
def timed_namespaces_lab(lab_name: str) -> Iterator[TimedLab]:
    """Two libvirtds in namespaces, for the whole run, with the time it took."""
    # neither lab's directory begins with the other's: what is left of one is not looked for in the other
    yield from lab_of_kind("namespaces", f"{lab_name}-namespaces")


@pytest.fixture(scope="session")
def namespaces_lab(timed_namespaces_lab: TimedLab) -> Lab:
    """Two libvirtds in namespaces, for the whole run. CPUs and pages are the machine's, shared by both."""
    return timed_namespaces_lab.lab


@pytest.fixture
def connections(namespaces_lab: Lab) -> Iterator[list[Any]]:
    """A connection to each host; every guest is destroyed and undefined afterwards."""
    opened: list[Any] = [libvirt.open(host.uri) for host in namespaces_lab.hosts]
    yield opened
    for connection in opened:
        connection.close()
    clear_guests(namespaces_lab)
