"""Processes of the lab: started so that a crash of the starter loses none, ended so that no stranger is hit.

A pid alone proves nothing: the kernel hands it out again. A process of the lab is known by pid *and* start time
(field 22 of /proc/PID/stat, proc(5)), and by a token in its environment, which its children inherit and which exists
in the journal before the process does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import EnvironmentLacking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numaferry.lab.journal import Journal, Resource

TOKEN_NAME = "NUMAFERRY_LAB_TOKEN"  # noqa: S105 - a mark to find processes by, no secret


@frozen
class Process:
    """A running process: `pid`, and `start` in clock ticks since boot, which together never name another."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_of(self.pid) == self.start


def start_of(pid: int) -> int | None:
    """Return the start time of process `pid` in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def spawn(
    journal: Journal,
    argv: Sequence[str],
    *,
    log: Path,
    netns: str | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start `argv` in a session of its own, with its output appended to `log`, and return it.

    `netns` is the name of a network namespace to run in, `directory` the working directory. The process survives this
    one. Raises EnvironmentLacking when the program can't be started.
    """
    token = secrets.token_hex(16)
    resource = journal.intend("process", token=token, command=argv[0])
    words = ["env", "-C", str(directory), *argv] if directory else list(argv)
    if netns:
        words = ["nsenter", f"--net=/run/netns/{netns}", "--", *words]
    output = (1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawnp(
            words[0],
            words,
            {**(os.environ if environment is None else environment), TOKEN_NAME: token},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, *output),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise EnvironmentLacking(
            f"{words[0]} can't be started: {error.strerror}", hint="run tools/setup as root"
        ) from error
    # not reaped yet, whatever became of it, so the pid is still its own
    start = start_of(pid)
    process = Process(pid=pid, start=-1 if start is None else start)
    journal.amend(resource, pid=process.pid, start=process.start)
    return process


def end_process(resource: Resource, timeout_s: float = 10) -> None:
    """End the process of a journal record and everything that inherited its token; none of them is not an error.

    SIGKILL, because nothing in a lab is worth a farewell. Raises EnvironmentLacking when one survives `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while found := _processes_of(resource):
        for process in found:
            _kill(process)
        for process in found:
            while process.alive and time.monotonic() < deadline:
                _reap(process.pid)
                time.sleep(0.01)
        if time.monotonic() >= deadline:
            pids = ", ".join(str(process.pid) for process in found)
            raise EnvironmentLacking(f"process {pids} does not end", hint="look at its stack in /proc, then try again")
    if "pid" in resource.facts:
        _reap(resource.facts["pid"])


def kill(process: Process, timeout_s: float = 10) -> None:
    """End one process of ours and wait until it is gone; a process that is not there any more is fine.

    Raises EnvironmentLacking when it does not end.
    """
    deadline = time.monotonic() + timeout_s
    while process.alive:
        _kill(process)
        _reap(process.pid)
        if time.monotonic() >= deadline:
            raise EnvironmentLacking(f"process {process.pid} does not end", hint="look at its stack in /proc")
        time.sleep(0.01)


def _processes_of(resource: Resource) -> list[Process]:
    """Return the record's own process, if it still is that one, and all that carry its token."""
    mark = f"{TOKEN_NAME}={resource.facts['token']}".encode()
    found = [process for process in _all_processes() if mark in _environment(process.pid)]
    if "pid" in resource.facts:
        own = Process(pid=resource.facts["pid"], start=resource.facts["start"])
        if own.alive and own not in found:
            found.append(own)
    return found


def _all_processes() -> list[Process]:
    started = (
        (int(entry.name), start_of(int(entry.name))) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    )
    return [Process(pid=pid, start=start) for pid, start in started if start is not None and pid != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(process: Process) -> None:
    # the descriptor is opened first and the start time read after it: from here on the pid can't change hands
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if process.alive:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
