"""What a lab host boots from: an archive with busybox, modules and the set-up, and a small one that makes it itself."""

from __future__ import annotations

import shlex
from importlib.resources import files
from typing import TYPE_CHECKING

from numaferry.lab import initramfs, modules, readahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numaferry.lab.kernel import Kernel

MODULES = (
    *("virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_net", "virtio_console", "virtio_rng"),
    *("bridge", "macvtap", "tun", "vhost_net", "kvm_amd", "kvm_intel"),
)
DIRECTORIES = (
    *("bin", "dev", "proc", "sys", "modules", "lower", "upper", "new"),
    *("files", "files/lab", "files/libvirt", "files/capabilities"),
)
# files of the package that a running host uses, by where the archive puts them
SCRIPTS = {
    "inittab": "files/inittab",
    "start": "files/lab/start",
    "execd": "files/lab/execd",
    "answer": "files/lab/answer",
}

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# root throughout, since the common folder and the emulator belong to it; no private /dev, which saves a mount each
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
migration_host = "{ip}"
migration_address = "{ip}"
"""


def _package_file(name: str) -> bytes:
    return (files("numaferry.lab") / "hostfiles" / name).read_bytes()


def _base(busybox: Path, found: Mapping[str, bytes]) -> Iterator[initramfs.Entry]:
    yield from (initramfs.directory(path) for path in DIRECTORIES)
    yield initramfs.character_device("dev/console", 5, 1)
    yield initramfs.character_device("dev/null", 1, 3)
    yield initramfs.file("bin/busybox", busybox.read_bytes(), executable=True)
    yield initramfs.file("init", _package_file("init"), executable=True)
    yield from (initramfs.file(path, _package_file(name)) for name, path in SCRIPTS.items())
    yield from (initramfs.file(f"modules/{name}.ko", data) for name, data in found.items())
    yield initramfs.file("files/readahead", "".join(f"{path}\n" for path in readahead.files()).encode())
    yield initramfs.file("modules/order", "".join(f"{name}\n" for name in found).encode())


def base_archive(kernel: Kernel, busybox: Path) -> bytes:
    """Return the archive that all hosts share. Raises EnvironmentLacking when the kernel lacks a module."""
    return initramfs.archive(_base(busybox, modules.ordered(MODULES, kernel.modules)))


def probe_archive(busybox: Path) -> bytes:
    """Return an archive that says `NUMAFERRY probed` on the console and turns the machine off."""
    conf = initramfs.file("host.conf", b"probe=yes\n")
    return initramfs.archive((*_base(busybox, {}), conf))


def host_archive(
    settings: Mapping[str, str], *, uuid: str, addresses: Mapping[str, str], capabilities: Sequence[Path]
) -> bytes:
    """Return the archive that makes a host itself.

    `settings` are the shell variables of its set-up (see hostfiles/init), `addresses` the IP addresses of all names in
    the lab, `capabilities` files of libvirt's cache.
    """
    conf = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    hosts = "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in addresses.items())
    return initramfs.archive(
        (
            initramfs.file("host.conf", conf.encode()),
            initramfs.file("files/hosts", hosts.encode()),
            initramfs.file("files/libvirt/libvirtd.conf", LIBVIRTD_CONF.format(uuid=uuid).encode()),
            initramfs.file("files/libvirt/qemu.conf", QEMU_CONF.format(ip=settings["ip"]).encode()),
            *(initramfs.file(f"files/capabilities/{path.name}", path.read_bytes()) for path in capabilities),
        )
    )
