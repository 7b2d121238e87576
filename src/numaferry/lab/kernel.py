"""The kernel of lab hosts and lab guests: unpacked from the distribution's package into the cache, never installed.

A full kernel, since the "cloud" flavour lacks 9p; not the running one, since a fresh machine may run a newer or a
foreign kernel whose modules are nowhere on its disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import EnvironmentLacking
from numaferry.lab import bzimage
from numaferry.lab.commands import run
from numaferry.xdg import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# by the ID of os-release(5): the package that always depends on the newest kernel
META_PACKAGE = {"debian": "linux-image-amd64", "ubuntu": "linux-image-generic"}
# of a kernel's modules, what no lab will ever want; two thirds of its size
UNWANTED = (
    "drivers/gpu",
    "drivers/media",
    "drivers/infiniband",
    "drivers/staging",
    "drivers/usb",
    "drivers/iio",
    "sound",
)
NEEDED_MIB = 1024


@frozen
class Kernel:
    """A kernel in the cache: its bootable `image`, and `modules`, its /lib/modules/VERSION tree.

    `quick_image` is what an emulated machine starts soonest: the image unpacked, or else the image.
    """

    version: str
    image: Path
    modules: Path
    quick_image: Path


def _in(directory: Path) -> Kernel | None:
    images = sorted((directory / "boot").glob("vmlinuz-*"))
    trees = [tree for base in ("lib", "usr/lib") for tree in (directory / base / "modules").glob("*")]
    if not images or not trees:
        return None
    unpacked = _unpacked(images[0])
    quick_image = unpacked if unpacked.exists() else images[0]
    return Kernel(version=trees[0].name, image=images[0], modules=trees[0], quick_image=quick_image)


def _unpacked(image: Path) -> Path:
    return image.with_name(image.name.replace("vmlinuz", "vmlinux", 1))


def cached() -> Kernel | None:
    """Return the newest kernel in the cache, if there is one."""
    directories = sorted((cache_directory() / "kernel").glob("linux-*"), key=lambda path: path.stat().st_mtime)
    kernels = [kernel for kernel in map(_in, directories) if kernel]
    return kernels[-1] if kernels else None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def get(say: Callable[[str], None]) -> Kernel:
    """Return the kernel in the cache, fetching it first if there is none.

    Raises EnvironmentLacking when no package of it can be had.
    """
    base = cache_directory() / "kernel"
    with _alone(base):
        if found := cached():
            return found
        packages = _packages()
        say(f"fetching {packages[0]} (once; kept in {base})")
        with tempfile.TemporaryDirectory(dir=base, prefix="draft-") as draft:
            tree = Path(draft, "tree")
            _unpack(Path(draft), packages, tree)
            if _in(tree) is None:
                raise EnvironmentLacking(
                    f"{', '.join(packages)} held no kernel with its modules", hint="tell the project"
                )
            for image in (tree / "boot").glob("vmlinuz-*"):
                if elf := bzimage.unpack(image.read_bytes()):
                    _unpacked(image).write_bytes(elf)
            tree.rename(base / packages[0].replace("image-", "", 1))
    found = cached()
    assert found is not None  # noqa: S101 - just put there
    return found


def check() -> None:
    """Raise EnvironmentLacking when there is neither a kernel in the cache nor a package of one to be had."""
    if cached() is None:
        cache_directory().mkdir(parents=True, exist_ok=True)
        _need_disk(cache_directory())
        _packages()


def _need_disk(directory: Path) -> None:
    free_mib = shutil.disk_usage(directory).free >> 20
    if free_mib < NEEDED_MIB:
        raise EnvironmentLacking(
            f"{free_mib} MiB are free in {directory}, {NEEDED_MIB} MiB are needed",
            hint="free some, or set XDG_CACHE_HOME",
        )


def _distribution() -> str:
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    names = re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)"?$', text, re.MULTILINE)
    for name in " ".join(names).split():
        if name in META_PACKAGE:
            return name
    raise EnvironmentLacking(
        f"no kernel package is known for this distribution ({', '.join(names)})", hint="LAB=namespaces needs no kernel"
    )


def _packages() -> tuple[str, ...]:
    """Return the packages that hold the newest kernel and its modules."""
    meta = META_PACKAGE[_distribution()]
    hint = "check the machine's apt sources and network; LAB=namespaces needs no kernel"
    if "Depends:" not in run(["apt-cache", "depends", meta], hint=hint):
        run(["apt-get", "update", "-qq"], timeout_s=120, hint=hint)
    depends = run(["apt-cache", "depends", meta], hint=hint)
    found = re.findall(r"Depends: (linux-(?:image|modules)[\w.+-]+)", depends)
    images = [name for name in found if name.startswith("linux-image-")]
    if not images:
        raise EnvironmentLacking(f"apt knows no package that {meta} depends on", hint=hint)
    # where modules have packages of their own (Ubuntu), they are named after the image's version
    version = images[0].removeprefix("linux-image-")
    own = [f"linux-modules-{version}", f"linux-modules-extra-{version}"]
    known = run(["apt-cache", "pkgnames", "linux-modules-"]).split()
    return (images[0], *(name for name in own if name in known))


def _unpack(draft: Path, packages: tuple[str, ...], tree: Path) -> None:
    hint = "check the machine's apt sources and network; LAB=namespaces needs no kernel"
    run(["env", "-C", str(draft), "apt-get", "download", "-qq", *packages], timeout_s=300, hint=hint)
    for package in sorted(draft.glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(tree)], timeout_s=120)
    for unwanted in UNWANTED:
        for path in tree.glob(f"**/modules/*/kernel/{unwanted}"):
            shutil.rmtree(path)
