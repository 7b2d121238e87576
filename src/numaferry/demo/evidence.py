"""What the kernel of a host says of two QEMUs: affinity masks of every thread, and on which cell the pages lie.

Read from /proc inside the host, not from libvirt, whose answers are partly an echo of what it was told. One shell run
per host, with builtins only: under emulation every program started costs about half a second.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import NotFound
from numaferry.model import CpuSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.lab.model import LabHost

_SCRIPT = r"""
for name in %s; do
  [ -r /run/libvirt/qemu/$name.pid ] || { echo "absent $name"; continue; }
  read pid < /run/libvirt/qemu/$name.pid
  for task in /proc/$pid/task/*; do
    read comm < $task/comm
    while read key value rest; do case $key in Cpus_allowed_list:) mask=$value;; esac; done < $task/status
    echo "thread $name $pid ${task##*/} $mask $comm"
  done
  while read line; do case $line in *" huge "*|*kernelpagesize_kB=2048*) echo "map $name $line";; esac; done < /proc/$pid/numa_maps
done
"""  # noqa: E501 - a shell line is clearer whole

_NODE_PAGES = re.compile(r"\bN(\d+)=(\d+)\b")
_PAGE_KIB = re.compile(r"kernelpagesize_kB=(\d+)")


@attrs.frozen
class Thread:
    """A thread of a guest's QEMU: its id, its name as the kernel has it, the CPUs it may run on."""

    tid: int
    name: str
    cpus: CpuSet

    @property
    def vcpu(self) -> int | None:
        """The vCPU that the thread runs (QEMU calls it ``CPU n/KVM`` or ``CPU n/TCG``), or None for the others."""
        found = re.fullmatch(r"CPU (\d+)/(KVM|TCG)", self.name)
        return int(found[1]) if found else None


@attrs.frozen
class QemuSeen:
    """One QEMU as its host's kernel sees it: threads, and KiB of huge pages per host cell."""

    name: str
    pid: int
    threads: tuple[Thread, ...]
    huge_kib_by_cell: tuple[tuple[int, int], ...]

    @property
    def vcpu_cpus(self) -> CpuSet:
        """All CPUs on which any vCPU thread may run."""
        cpus = CpuSet()
        for thread in self.threads:
            if thread.vcpu is not None:
                cpus |= thread.cpus
        return cpus

    @property
    def all_cpus(self) -> CpuSet:
        """All CPUs on which any thread may run."""
        cpus = CpuSet()
        for thread in self.threads:
            cpus |= thread.cpus
        return cpus

    def vcpu_thread(self, vcpu: int) -> Thread:
        """Return the thread of a vCPU; raises NotFound."""
        for thread in self.threads:
            if thread.vcpu == vcpu:
                return thread
        raise NotFound(f"QEMU {self.pid} of {self.name} has no thread for vCPU {vcpu}")


def parse(output: str) -> dict[str, QemuSeen]:
    """Read what the script printed; guests that are not there are left out."""
    threads: dict[str, list[Thread]] = {}
    pids: dict[str, int] = {}
    huge: dict[str, dict[int, int]] = {}
    for line in output.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "thread":
            name, pid, tid, mask, comm = rest.split(" ", 4)
            pids[name] = int(pid)
            threads.setdefault(name, []).append(Thread(int(tid), comm, CpuSet.parse(mask)))
        elif kind == "map":
            name, _, mapping = rest.partition(" ")
            size = _PAGE_KIB.search(mapping)
            for cell, pages in _NODE_PAGES.findall(mapping):
                by_cell = huge.setdefault(name, {})
                by_cell[int(cell)] = by_cell.get(int(cell), 0) + int(pages) * int(size[1] if size else 2048)
    return {
        name: QemuSeen(name, pids[name], tuple(seen), tuple(sorted(huge.get(name, {}).items())))
        for name, seen in threads.items()
    }


def collect(host: LabHost, names: Sequence[str]) -> dict[str, QemuSeen]:
    """Return what the kernel of `host` says of the QEMUs of these guests."""
    return parse(host.exec(_SCRIPT % " ".join(names), timeout_s=120).output)
