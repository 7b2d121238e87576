"""libvirt's cache of what its emulators can do, kept between labs: probing is the largest part of a host's cold start.

libvirt itself checks what it finds there (times of the binaries, kernel, CPU) and probes again when in doubt; the key
here only keeps caches of different machines apart, so a wrong one costs time, never truth.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.lab.machine import ACCELERATOR, CPU, EMULATOR
from numaferry.xdg import cache_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numaferry.lab.kernel import Kernel

DRIVERS = "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so"


def _binaries() -> Iterator[Path]:
    yield from (Path(found) for found in (shutil.which(EMULATOR), shutil.which("libvirtd")) if found)
    yield from sorted(Path("/").glob(DRIVERS.lstrip("/")))


def key(kernel: Kernel, accelerator: str) -> str:
    """Return a name for everything that the cache's content depends on."""
    told = [kernel.version, ACCELERATOR[accelerator], CPU[accelerator]]
    for path in _binaries():
        status = path.stat()
        told.append(f"{path} {status.st_size} {status.st_ctime_ns}")
    if accelerator == "kvm":
        told += sorted(
            {line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model" in line}
        )
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def directory(kernel: Kernel, accelerator: str) -> Path:
    """Return the folder of the cache that fits this machine, whether it exists or not."""
    return cache_directory() / "capabilities" / key(kernel, accelerator)


def kept(kernel: Kernel, accelerator: str) -> tuple[Path, ...]:
    """Return the files to give a host before its libvirtd starts; none when they were never kept."""
    return tuple(sorted(directory(kernel, accelerator).glob("*.xml")))


def keep(kernel: Kernel, accelerator: str, found: Sequence[Path]) -> None:
    """Keep the files that a host's libvirtd made, whole or not at all; an existing set is replaced."""
    final = directory(kernel, accelerator)
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=final.parent, prefix="draft-"))
    for path in found:
        shutil.copyfile(path, draft / path.name)
    shutil.rmtree(final, ignore_errors=True)
    try:
        draft.rename(final)
    except OSError:  # another lab was quicker, with the same files
        shutil.rmtree(draft)
