"""The proofs: each looks at the real thing and can fail; `spoil` breaks the real thing, `mend` puts it back.

`make demo SABOTAGE=n` spoils proof n just before it is looked at, and must end non-zero. A proof returns the lines of
its evidence, or raises `DemoFailed` with what it found instead.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING, Protocol

import attrs

from numaferry.demo.casting import CELL_MIB, DB1_MAC
from numaferry.demo.evidence import QemuSeen, collect
from numaferry.demo.stage import DemoFailed
from numaferry.lab.capture import count_frames
from numaferry.model import CpuSet

if TYPE_CHECKING:
    from pathlib import Path

    from numaferry.demo.stage import Stage
    from numaferry.lab.model import LabHost


class Proof(Protocol):
    """One claim about the real thing: looked at, spoiled, mended."""

    claim: str

    def check(self, stage: Stage) -> list[str]:
        """Return the evidence; raises DemoFailed where the claim does not hold."""

    def spoil(self, stage: Stage) -> None:
        """Break the real thing so that `check` must fail."""

    def mend(self, stage: Stage) -> None:
        """Put the real thing back."""


def _masks(seen: QemuSeen) -> list[str]:
    return [f"  {seen.name:<7} {thread.name:<16} runs on CPUs {thread.cpus}" for thread in seen.threads]


def _pair(host: LabHost, left: str, right: str) -> tuple[QemuSeen, QemuSeen]:
    seen = collect(host, [left, right])
    missing = [name for name in (left, right) if name not in seen]
    if missing:
        raise DemoFailed(f"{' and '.join(missing)} do not run on {host.name}")
    return seen[left], seen[right]


@attrs.define
class TodayPinsTwice:
    """A plain `virsh migrate` took the source's pins along: two guests run on the same CPUs."""

    claim = "a plain virsh migrate pinned two guests to the same CPUs"

    def check(self, stage: Stage) -> list[str]:
        """Compare the vCPU threads' masks of the twin and of noisy1, from /proc on host B."""
        twin, noisy = _pair(stage.dest, "twin1", "noisy1")
        shared = twin.vcpu_cpus & noisy.vcpu_cpus
        if not shared:
            raise DemoFailed(f"twin1 on {twin.vcpu_cpus} and noisy1 on {noisy.vcpu_cpus} share no CPU")
        return [*_masks(twin), *_masks(noisy), f"two guests now share CPUs {shared} of {stage.dest.name}"]

    def spoil(self, stage: Stage) -> None:
        """Pin the twin elsewhere."""
        self._pin(stage, {0: "3", 1: "7"})

    def mend(self, stage: Stage) -> None:
        """Pin the twin back."""
        self._pin(stage, {0: "2", 1: "6"})

    def _pin(self, stage: Stage, pins: dict[int, str]) -> None:
        for vcpu, cpu in pins.items():
            stage.virsh(stage.dest, "vcpupin", "twin1", str(vcpu), cpu, "--live")


@attrs.define
class NoCpuShared:
    """Every thread of both QEMUs has a mask within its own guest's CPUs, and no CPU is in both."""

    claim = "no CPU is shared: affinity masks of all threads of both QEMUs, as the kernel has them"

    def check(self, stage: Stage) -> list[str]:
        """Read the masks of every thread on host B."""
        moved, noisy = _pair(stage.dest, "db1", "noisy1")
        if loose := [t for t in moved.threads if t.vcpu is not None and len(t.cpus) != 1]:
            raise DemoFailed(f"vCPU {loose[0].vcpu} of db1 may run on CPUs {loose[0].cpus}, not on one of its own")
        if shared := moved.all_cpus & noisy.all_cpus:
            raise DemoFailed(f"db1 and noisy1 share CPUs {shared} of {stage.dest.name}")
        return [*_masks(moved), *_masks(noisy), f"shared CPUs: none ({moved.all_cpus} and {noisy.all_cpus})"]

    def spoil(self, stage: Stage) -> None:
        """Set the mask of db1's vCPU 0 to a CPU of noisy1, behind libvirt's back."""
        moved, noisy = _pair(stage.dest, "db1", "noisy1")
        self._set(stage, moved, noisy.vcpu_thread(0).cpus)

    def mend(self, stage: Stage) -> None:
        """Set it back to the claimed CPU."""
        self._set(stage, collect(stage.dest, ["db1"])["db1"], CpuSet.of([claimed_pins(stage, "db1")[0]]))

    def _set(self, stage: Stage, seen: QemuSeen, cpus: CpuSet) -> None:
        # libvirt confines each vCPU by a cgroup as well, and the kernel refuses a mask outside it: open that first
        tid = seen.vcpu_thread(0).tid
        stage.dest.exec(
            f"read group < /proc/{seen.pid}/task/{tid}/cgroup; "
            f'echo {cpus} > "/sys/fs/cgroup${{group#0::}}/cpuset.cpus"; taskset -p -c {cpus} {tid}'
        )


@attrs.define
class PagesOnTheCells:
    """The guest's memory lies in 2 MiB pages on exactly the claimed cells, all of it."""

    claim = "every page lies on its claimed cell: numa_maps sums per cell equal the guest's memory"

    def check(self, stage: Stage) -> list[str]:
        """Sum the huge pages of db1's QEMU per cell, and compare with the claim's cells."""
        seen = collect(stage.dest, ["db1"])["db1"]
        found = dict(seen.huge_kib_by_cell)
        wanted = claimed_memory_kib(stage, "db1")
        if found != wanted:
            raise DemoFailed(f"huge pages of db1 in KiB per cell: {found}, claimed: {wanted}")
        if sum(found.values()) != 2 * CELL_MIB * 1024:
            raise DemoFailed(
                f"db1 has {sum(found.values())} KiB in huge pages, its memory is {2 * CELL_MIB * 1024} KiB"
            )
        return [f"  cell {cell}: {kib} KiB in 2 MiB pages = {kib // 2048} pages" for cell, kib in found.items()]

    def spoil(self, stage: Stage) -> None:
        """Move all pages of the running QEMU from cell 0 to cell 1 by the kernel's migrate_pages."""
        self._move(stage, 0, 1)

    def mend(self, stage: Stage) -> None:
        """Power the guest off and on: its pages come back where its persistent XML, and so the claim, wants them.

        Moving them back would leave open whether all of them came from there.
        """
        stage.virsh(stage.dest, "destroy", "db1")
        stage.watch_anew("db1")
        stage.virsh(stage.dest, "start", "db1")
        stage.watches["db1"].until_count(3, 120)
        self.check(stage)

    def _move(self, stage: Stage, source: int, dest: int) -> None:
        pid = collect(stage.dest, ["db1"])["db1"].pid
        code = (
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
            f"old, new = ctypes.c_ulong(1 << {source}), ctypes.c_ulong(1 << {dest}); "
            f"print(libc.syscall(256, {pid}, 64, ctypes.byref(old), ctypes.byref(new)), ctypes.get_errno())"
        )
        stage.dest.exec(f'/usr/bin/python3 -c "{code}"', timeout_s=60)


@attrs.define
class CounterUnbroken:
    """The guest lived through it: its counter went on without a reset, no page was corrupted."""

    claim = "the guest never stopped: its counter went on by one each time, no page corrupted"
    name: str = "db1"

    def check(self, stage: Stage) -> list[str]:
        """Read the guest's own serial line, from its start to now."""
        report = stage.watches[self.name].until_more(5)
        if not report.intact:
            raise DemoFailed(
                f"{self.name}: {report.starts} starts, breaks {report.breaks[:3]}, {len(report.corruptions)} corrupt"
            )
        return [f"  {report.starts} start, counter {report.first} … {report.last} without a gap, 0 corrupted pages"]

    def spoil(self, stage: Stage) -> None:
        """Power the guest off and on, which is what a move without live migration is."""
        host = stage.dest if self.name in collect(stage.dest, [self.name]) else stage.source
        before = stage.watches[self.name].poll().starts
        stage.virsh(host, "destroy", self.name)
        stage.virsh(host, "start", self.name)
        stage.watches[self.name].until(lambda seen: seen.starts > before, what="second start", timeout_s=120)

    def mend(self, stage: Stage) -> None:
        """Begin to watch anew from the guest's second life."""
        stage.watch_anew(self.name, "START again\n")


@attrs.define
class FramesArrive:
    """Frames that the guest sends through its macvtap NIC arrive on the lab's data network."""

    claim = "the macvtap NIC works on the destination's own link: frames with db1's MAC arrive"

    def check(self, stage: Stage) -> list[str]:
        """Count frames by source MAC on the data bridge for some seconds."""
        seconds = 4.0
        frames = count_frames(stage.lab, seconds).get(DB1_MAC, 0)
        link = stage.dest.data_links[0]
        if not frames:
            raise DemoFailed(f"no frame from {DB1_MAC} in {seconds:g} s")
        return [f"  {frames} frames from {DB1_MAC} in {seconds:g} s, sent through {link} of {stage.dest.name}"]

    def spoil(self, stage: Stage) -> None:
        """Take the macvtap's parent down on host B."""
        stage.dest.exec(f"ip link set {stage.dest.data_links[0]} down")

    def mend(self, stage: Stage) -> None:
        """Bring it up again."""
        stage.dest.exec(f"ip link set {stage.dest.data_links[0]} up")


@attrs.define
class ClaimsExact:
    """The ledger holds exactly what the kernel shows, and nothing of db1 on the host it left."""

    claim = "the claims are exactly what runs: the ledger's CPUs are the kernel's, nothing is left on the source"

    def check(self, stage: Stage) -> list[str]:
        """Compare the ledger's rows with the masks, and run the audit."""
        seen = collect(stage.dest, ["db1"])["db1"]
        pins = claimed_pins(stage, "db1")
        kernel = {t.vcpu: t.cpus.first() for t in seen.threads if t.vcpu is not None}
        if pins != kernel:
            raise DemoFailed(f"the ledger claims {pins} for db1, the kernel has {kernel}")
        owned = owned_cpus(stage, stage.dest, "db1")
        if owned != CpuSet.of(pins.values()):
            raise DemoFailed(f"the ledger's rows on {stage.dest.name} give db1 CPUs {owned}, its pins are {pins}")
        if left := owned_cpus(stage, stage.source, "db1"):
            raise DemoFailed(f"db1 left {stage.source.name}, but still owns CPUs {left} there")
        return [f"  claimed and running: {pins}; on {stage.source.name}: nothing"]

    def spoil(self, stage: Stage) -> None:
        """Delete a claimed CPU from the ledger by raw SQL, as a bad tool would."""
        shutil.copyfile(stage.ledger_file, _copy_of(stage))
        with contextlib.closing(sqlite3.connect(stage.ledger_file)) as database:
            database.execute("PRAGMA foreign_keys = OFF")
            database.execute("DELETE FROM claim_cpu")
            database.commit()

    def mend(self, stage: Stage) -> None:
        """Put the ledger back as it was."""
        for suffix in ("-wal", "-shm"):
            stage.ledger_file.with_name(stage.ledger_file.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(_copy_of(stage), stage.ledger_file)


def _copy_of(stage: Stage) -> Path:
    return stage.folder / "ledger-copy.sqlite"


def claimed_pins(stage: Stage, name: str) -> dict[int, int]:
    """Return vCPU → host CPU as the ledger has them now."""
    shown = stage.ask("instance", "show", name)
    return {int(vcpu): int(cpu) for cell in shown["numa_topology"]["cells"] for vcpu, cpu in cell["cpu_pinning"]}


def claimed_memory_kib(stage: Stage, name: str) -> dict[int, int]:
    """Return host cell → KiB as the ledger has them now."""
    wanted: dict[int, int] = {}
    for cell in stage.ask("instance", "show", name)["numa_topology"]["cells"]:
        wanted[cell["host_cell"]] = wanted.get(cell["host_cell"], 0) + cell["memory_kib"]
    return wanted


def owned_cpus(stage: Stage, host: LabHost, name: str) -> CpuSet:
    """Return the CPUs of a host that the ledger's own rows give to a guest."""
    rows = stage.ask("ledger", "explain", host.name)["cpus"]
    return CpuSet.of(row["cpu"] for row in rows if row.get("instance") == name)
