"""Which files a host reads whole before it starts anything: libvirtd, QEMU and their libraries.

Started from a 9p file system, a program is read page by page as it touches them; read in one go it costs a tenth.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from numaferry.errors import EnvironmentLacking
from numaferry.lab.commands import run
from numaferry.lab.machine import EMULATOR

PROGRAMS = ("libvirtd", EMULATOR, "sh")
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
PLUGINS = (
    "usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so",
    "usr/lib/*/libvirt/connection-driver/libvirt_driver_network.so",
    "usr/lib/*/qemu/accel-*-x86_64.so",
)


def libraries(listing: str) -> list[Path]:
    """Return the libraries that the output of ldd(1) names, in its order."""
    return [Path(found) for found in re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listing, re.MULTILINE)]


def files() -> tuple[Path, ...]:
    """Return the programs, their plug-ins and all their libraries, each once; a missing one is left out."""
    found = [Path(path) for path in (shutil.which(name, path=PATH) for name in PROGRAMS) if path]
    found += [path for pattern in PLUGINS for path in sorted(Path("/").glob(pattern))]
    needed = list(found)
    for path in found:
        try:
            needed += libraries(run(["ldd", str(path)]))
        except EnvironmentLacking:
            continue  # a script, or linked statically; only speed is lost
    return tuple(dict.fromkeys(path.resolve() for path in needed))
