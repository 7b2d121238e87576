"""The linux guest: the distribution's kernel, busybox, and one program of ours, in an initial RAM file system.

For what the tiny guest can't do: answer when a device is unplugged, have an address, be what people really run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking
from numaferry.lab import initramfs, kernel, modules
from numaferry.lab.commands import run
from numaferry.lab.guests.image import SOURCES, GuestImage, cached, compiler, content_key

if TYPE_CHECKING:
    from collections.abc import Callable

BUSYBOX = Path("/bin/busybox")
MODULES = ("virtio_pci", "virtio_net", "e1000", "e1000e")
WATCH_FLAGS = ("-O2", "-static", "-s", "-Wall", "-Wextra")


def _quiet(_: str) -> None:
    pass


def build_linux(say: Callable[[str], None] = _quiet) -> GuestImage:
    """Build the guest in `linux/`; `say` is told when the kernel's package has to be fetched first.

    Raises EnvironmentLacking when gcc, the static C library, a static busybox or the package can't be had.
    """
    if not BUSYBOX.exists():
        raise EnvironmentLacking(f"{BUSYBOX} is not there", hint="run tools/setup as root (busybox-static)")
    found = kernel.get(say)
    folder = SOURCES / "linux"
    sources = [(folder / name).read_bytes() for name in ("init", "watch.c")]
    what = [compiler(), *WATCH_FLAGS, found.version, *MODULES]
    key = content_key([*(word.encode() for word in what), BUSYBOX.read_bytes(), *sources])
    return GuestImage(
        kind="linux",
        kernel=cached(f"linux-{found.version}", lambda out: _copy(found.image, out)),
        initrd=cached(f"linux-{key}.initrd", lambda out: _write_initrd(found.modules, folder, out)),
    )


def _copy(source: Path, dest: Path) -> None:
    dest.write_bytes(source.read_bytes())


def _write_initrd(tree: Path, folder: Path, out: Path) -> None:
    watch = out.with_name("watch")
    run(
        ["gcc", *WATCH_FLAGS, str(folder / "watch.c"), "-o", str(watch)],
        timeout_s=120,
        hint="run tools/setup as root (gcc, libc6-dev)",
    )
    drivers = modules.ordered(MODULES, tree)
    entries = [
        *(initramfs.directory(name) for name in ("bin", "dev", "proc", "sys", "modules")),
        initramfs.character_device("dev/console", 5, 1),
        initramfs.file("init", (folder / "init").read_bytes(), executable=True),
        initramfs.file("bin/busybox", BUSYBOX.read_bytes(), executable=True),
        initramfs.file("bin/watch", watch.read_bytes(), executable=True),
        initramfs.file("modules/order", "".join(f"{name}.ko\n" for name in drivers).encode()),
        *(initramfs.file(f"modules/{name}.ko", data) for name, data in drivers.items()),
    ]
    out.write_bytes(initramfs.archive(entries))
