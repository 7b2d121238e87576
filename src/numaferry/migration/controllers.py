"""What a controller calls itself, and whether it is known to have ended.

A controller calls itself ``HOST/BOOT.NAMESPACE:PID:STARTTIME.N``; the start time (jiffies since boot,
proc_pid_stat(5)) tells a process from a later one of the same PID, N the engines of one process from each other.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
from pathlib import Path

_numbers = itertools.count(1)


def new_name() -> str:
    """Return a name for one more controller in this process, which none bore before it and none will."""
    return f"{name_of(os.getpid(), start_time(os.getpid()))}.{next(_numbers)}"


def name_of(pid: int, started: str) -> str:
    """Return what a controller that is process `pid` of this machine calls itself, without its number."""
    return f"{place()}:{pid}:{started}"


@functools.cache
def place() -> str:
    """Return where PIDs mean what they mean here: host name, this boot of it, this PID namespace.

    Machines may share a name (clones, ``localhost``), and a container shares its host's.
    """
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))[:8]
    try:
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{boot}.{namespace}"


def start_time(pid: int) -> str:
    """Return when a process of this machine started, in jiffies since boot; "" where there is none."""
    stat = _read(Path(f"/proc/{pid}/stat"))
    if not stat:
        return ""
    # The command's name is in parentheses and may hold anything; the state follows the last one.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_dead(controller: str, *, where: str | None = None) -> bool:
    """Tell whether a controller is known to have ended: a process of this machine that is not there any more.

    Of one on another machine, in another PID namespace or before a reboot nothing is known here: its lease says when
    it may be taken over.
    """
    match controller.rsplit(":", 2):
        case [host, pid, started] if pid.isdecimal() and host == (where or place()):
            return start_time(int(pid)) != started.partition(".")[0]
        case _:
            return False
