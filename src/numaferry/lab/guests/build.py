"""Making the lab's guests from the sources beside this file, into the cache, once per content.

What is built is named by a hash of everything it was built from (sources, compiler, flags, kernel), so a stale one is
never used and two builders never spoil each other's work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from numaferry.lab.commands import run
from numaferry.lab.place import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numaferry.lab.model import Lab

GuestKind = Literal["tiny", "linux"]

SOURCES = Path(__file__).parent

# 32-bit and freestanding: needs neither a 32-bit C library nor libgcc
TINY_FLAGS = (
    *("-m32", "-march=i686", "-O2", "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mgeneral-regs-only"),
    *("-fno-tree-loop-distribute-patterns", "-Wall", "-Wextra", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
)


@frozen
class GuestImage:
    """What a guest of `kind` boots: `kernel` and, for linux, `initrd`, as paths where its QEMU will run."""

    kind: GuestKind
    kernel: Path
    initrd: Path | None = None


def content_key(parts: Iterable[bytes]) -> str:
    """Return a short name for exactly these contents, in this order (hex, 16 digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the file `name` of the guests' cache; where it is missing, `make(path)` writes it.

    It appears under its name whole or not at all; of two makers the last one wins, with the same content.
    """
    target = cache_directory() / "guests" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as work:
            draft = Path(work) / name
            make(draft)
            draft.replace(target)
    return target


def compiler() -> str:
    """Return the C compiler's version line. Raises EnvironmentLacking without one."""
    return run(["gcc", "--version"], hint="run tools/setup as root").splitlines()[0]


def build_tiny() -> GuestImage:
    """Build the multiboot guest in `tiny/`. Raises EnvironmentLacking when gcc is missing or refuses."""
    folder = SOURCES / "tiny"
    sources = sorted(path for path in folder.iterdir() if path.suffix in {".c", ".S", ".h", ".ld"})
    key = content_key(
        [compiler().encode(), " ".join(TINY_FLAGS).encode()]
        + [part for path in sources for part in (path.name.encode(), path.read_bytes())]
    )
    units = [str(path) for path in sources if path.suffix in {".c", ".S"}]
    script = f"-Wl,-T,{folder / 'tiny.ld'}"
    return GuestImage(
        kind="tiny",
        kernel=cached(f"tiny-{key}.elf", lambda out: _quiet_run(["gcc", *TINY_FLAGS, script, *units, "-o", str(out)])),
    )


def _quiet_run(argv: list[str]) -> None:
    run(argv, timeout_s=120)


def guest_image(kind: GuestKind) -> GuestImage:
    """Return the image of a guest kind by its paths on this machine, built first if need be.

    Raises EnvironmentLacking when a compiler, busybox or the kernel's package can't be had.
    """
    if kind == "tiny":
        return build_tiny()
    from numaferry.lab.guests.linux_image import build_linux  # noqa: PLC0415 - tiny needs nothing of the kernel's

    return build_linux()


def put_in_share(lab: Lab, kind: GuestKind) -> GuestImage:
    """Copy the image into the folder that all hosts of `lab` share, and return it by its paths inside the hosts.

    Idempotent; for a path that is the same on the source and the destination of a migration, whatever the hosts' root
    file systems are.
    """
    image = guest_image(kind)
    outside, inside = lab.share / "guests", lab.hosts[0].share / "guests"
    outside.mkdir(exist_ok=True)
    for path in filter(None, (image.kernel, image.initrd)):
        if not (outside / path.name).exists():
            draft = outside / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, draft)
            draft.replace(outside / path.name)
    return evolve(
        image,
        kernel=inside / image.kernel.name,
        initrd=inside / image.initrd.name if image.initrd else None,
    )
