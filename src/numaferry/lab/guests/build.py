"""The images of the lab's guests: the tiny one is made here, either kind is handed out and put where hosts see it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from attrs import evolve

from numaferry.lab.commands import run
from numaferry.lab.guests.image import SOURCES, GuestImage, GuestKind, cached, compiler, content_key
from numaferry.lab.guests.linux_image import build_linux

if TYPE_CHECKING:
    from numaferry.lab.model import Lab

# 32-bit and freestanding: needs neither a 32-bit C library nor libgcc
TINY_FLAGS = (
    *("-m32", "-march=i686", "-O2", "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mgeneral-regs-only"),
    *("-fno-tree-loop-distribute-patterns", "-Wall", "-Wextra", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
)


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
    return build_tiny() if kind == "tiny" else build_linux()


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
