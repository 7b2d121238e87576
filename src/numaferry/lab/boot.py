"""Watching hosts boot: all at once, with a line of progress per stage, until a libvirt call succeeds in each."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

from attrs import define, field

from numaferry.errors import EnvironmentLacking, HostUnreachable
from numaferry.lab.machine import CONSOLE_LOG, QEMU_LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numaferry.lab.processes import Process
    from numaferry.lab.site import Site

# far beyond what was seen (70 s cold on 2 busy CPUs under emulation); a host that died is noticed at once
LIMIT_S = 300.0
TICK_S = 0.2
# An emulated machine with several CPUs now and then hangs for good while its kernel starts (seen once in about thirty
# boots, not a word on the console, QEMU busy). The longest stage of a boot that went well was 40 s, at load 25.
STALL_S = 75.0
ATTEMPTS = 3

_STAGE = re.compile(r"^NUMAFERRY (\S+) ", re.MULTILINE)
_FAILED = re.compile(r"^NUMAFERRY-FAILED (.*?)\r?$", re.MULTILINE)


@define
class Boot:
    """A host on its way up."""

    name: str
    uri: str
    directory: Path
    process: Process
    #: Ends the machine and starts it anew.
    again: Callable[[Process], Process]
    attempt: int = 1
    progress_at_s: float = field(factory=time.monotonic)
    stages: set[str] = field(factory=set)
    call: subprocess.Popen[bytes] | None = None
    ready: bool = False

    def console(self) -> str:
        """Return what the host has written to its serial console so far."""
        path = self.directory / CONSOLE_LOG
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def step(self, site: Site) -> None:
        """Look once: tell of new stages, and call libvirt once the host is set up."""
        console = self.console()
        for stage in _STAGE.findall(console):
            if stage not in self.stages:
                self.stages.add(stage)
                self.progress_at_s = time.monotonic()
                site.say(f"{self.name}: {stage}")
        failed = _FAILED.search(console)
        if failed or not self.process.alive:
            raise EnvironmentLacking(
                f"host {self.name} ended while booting: {failed[1] if failed else self._last_words()}"
            )
        if "set-up" in self.stages:
            self._ask_libvirt(site)
        if not self.ready and time.monotonic() - self.progress_at_s > STALL_S:
            self._begin_again(site)

    def _begin_again(self, site: Site) -> None:
        """Start a machine that hangs once more; raises HostUnreachable when that was done often enough."""
        where = f"after {', '.join(sorted(self.stages))}" if self.stages else "before its kernel said anything"
        if self.attempt == ATTEMPTS:
            raise HostUnreachable(
                f"host {self.name} hung {where}, for {STALL_S:g} s, in each of {ATTEMPTS} attempts",
                hint="the machine may be overloaded: see its load, or use LAB=namespaces",
            )
        site.say(f"{self.name}: hangs {where}; starting it anew")
        self.stop()
        self.attempt += 1
        self.stages.clear()
        self.process = self.again(self.process)
        self.progress_at_s = time.monotonic()

    def _last_words(self) -> str:
        lines = (self.directory / QEMU_LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line for line in lines if line.strip() and "warning" not in line]
        return told[-1] if told else "QEMU said nothing"

    def _ask_libvirt(self, site: Site) -> None:
        # the call that makes libvirtd ask its emulators what they can do, so that nobody else waits for that
        if self.call is None:
            words = ["virsh", "--connect", self.uri, "capabilities"]
            self.call = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        elif (code := self.call.poll()) is not None:
            self.call = None
            if code == 0:
                self.ready = True
                site.say(f"{self.name}: libvirt answers")

    def stop(self) -> None:
        """End a call that is under way."""
        if self.call is not None:
            self.call.kill()
            self.call.wait()
            self.call = None


def wait_until_ready(site: Site, boots: Sequence[Boot]) -> None:
    """Return when libvirt answers in every host.

    Raises EnvironmentLacking when a host ends, HostUnreachable when one is not ready within 300 s.
    """
    began = time.monotonic()
    try:
        while waiting := [boot for boot in boots if not boot.ready]:
            for boot in waiting:
                boot.step(site)
            if time.monotonic() - began > LIMIT_S:
                names = ", ".join(boot.name for boot in waiting)
                raise HostUnreachable(f"{names}: libvirt does not answer {LIMIT_S:g} s after the start")
            time.sleep(TICK_S)
    finally:
        for boot in boots:
            boot.stop()
