"""KVM or emulation: decided by trying, since a machine may have a /dev/kvm that runs no Linux kernel in useful time."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from numaferry.lab.hostimage import probe_archive
from numaferry.lab.journal import boot_id
from numaferry.lab.machine import EMULATOR, KERNEL_LINE
from numaferry.xdg import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.lab.kernel import Kernel

# real KVM needs about one second
LIMIT_S = 8.0


@frozen
class Choice:
    """What hosts run on, `kvm` or `tcg` (QEMU's emulation), and why, for people."""

    accelerator: str
    reason: str


def choose(kernel: Kernel, busybox: Path, say: Callable[[str], None]) -> Choice:
    """Return what hosts are to run on; the answer of a probe is kept for this boot of the machine."""
    if not Path("/dev/kvm").exists():
        return Choice("tcg", "this machine has no /dev/kvm")
    path = cache_directory() / "kvm-probe.json"
    asked = {"boot": boot_id(), "kernel": kernel.version}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["asked"] == asked:
            return Choice(**told["choice"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"probing whether KVM boots a Linux kernel within {LIMIT_S:g} s (once per boot of this machine)")
    choice = _probe(kernel, busybox)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": asked, "choice": asdict(choice)}), encoding="utf-8")
    return choice


def _probe(kernel: Kernel, busybox: Path) -> Choice:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "probe.cpio")
        archive.write_bytes(probe_archive(busybox))
        words = [
            *(EMULATOR, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35"),
            *("-accel", "kvm", "-cpu", "host", "-m", "512M", "-serial", "stdio"),
            *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", KERNEL_LINE),
        ]
        began = time.monotonic()
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return Choice("tcg", f"this machine's KVM did not boot a Linux kernel within {LIMIT_S:g} s")
        if "NUMAFERRY probed" in done.stdout:
            return Choice("kvm", f"this machine's KVM booted a Linux kernel in {time.monotonic() - began:.1f} s")
        said = (done.stderr.strip() or f"QEMU ended with {done.returncode}").splitlines()[-1]
        return Choice("tcg", f"this machine's KVM runs no Linux kernel ({said[-120:]})")
