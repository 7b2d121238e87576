"""Files and pools of simulated hosts, and the copy of disks that a job makes before it sends memory."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HypervisorError, NotFound
from numaferry.model import DiskSize, HostStorage, StoragePool, Volume
from numaferry.request import guest_disks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numaferry.model import MigrateCall
    from numaferry.virt.simulated.host import SimHost

GIB = 1 << 30


@attrs.define(slots=True)
class SimImage:
    """A file that is a disk image; one object in the files of several hosts is one file that they all see."""

    format: str = "raw"
    capacity_bytes: int = GIB
    allocation_bytes: int = 0
    #: What was written to it; equal on both sides of a good copy.
    content: str = ""
    backing_path: str = ""


def read_storage(host: SimHost, paths: Sequence[str]) -> HostStorage:
    """Return the host's pools, and the images at those of `paths` that lie in one."""
    volumes = {}
    for path in paths:
        image, pool = host.files.get(path), pool_of(host, path)
        if image is not None and pool is not None:
            volumes[path] = Volume(
                path, pool.name, image.format, image.capacity_bytes, image.allocation_bytes, image.backing_path
            )
    return HostStorage(tuple(pool for name, pool in host.pools.items() if name not in host.inactive_pools), volumes)


def pool_of(host: SimHost, path: str) -> StoragePool | None:
    """Return the pool of the directory in which a path lies."""
    return next((pool for pool in host.pools.values() if pool.target == posixpath.dirname(path)), None)


def create(host: SimHost, volume: Volume) -> None:
    """Make an empty image; raises HypervisorError with libvirt's text."""
    if volume.pool not in host.pools:
        raise HypervisorError(
            f"Storage pool not found: no storage pool with matching name '{volume.pool}'", hint="define it"
        )
    if volume.path in host.files:
        raise HypervisorError(
            f"Requested operation is not valid: volume target path '{volume.path}' already exists", hint="look at it"
        )
    host.files[volume.path] = SimImage(volume.format, volume.capacity_bytes, backing_path=volume.backing_path)


def delete(host: SimHost, path: str) -> None:
    """Remove an image; raises NotFound where no pool has it."""
    if path not in host.files or pool_of(host, path) is None:
        raise NotFound(f"Storage volume not found: no storage vol with matching path '{path}'", hint="look at the pool")
    del host.files[path]


def disk_sizes(host: SimHost, xml: str, targets: Sequence[str]) -> dict[str, DiskSize]:
    """Return the sizes of these disks."""
    found = {}
    for disk in guest_disks(xml):
        image = host.files.get(disk.images[0].path) if disk.images else None
        if disk.target in targets and image is not None:
            found[disk.target] = DiskSize(image.capacity_bytes, image.allocation_bytes)
    return found


@attrs.define(slots=True)
class DiskCopy:
    """What a job does with the disks of its guest that are files of the source."""

    source: SimHost
    dest: SimHost
    #: (target, path) of the disks that are copied, and of the others.
    copied: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    said_shared: bool
    total_bytes: int
    done_bytes: int = 0

    @classmethod
    def of(cls, source: SimHost, dest: SimHost, xml: str, call: MigrateCall) -> DiskCopy:
        """Return what the job of this call has to do."""
        disks = [
            (disk.target, disk.images[0].path)
            for disk in guest_disks(xml)
            if disk.images and disk.images[0].path in source.files
        ]
        copied = tuple(one for one in disks if one[0] in call.migrate_disks)
        left = tuple(one for one in disks if one not in copied)
        total = sum(source.files[path].capacity_bytes for _, path in copied)
        return cls(source, dest, copied, left, call.disks_said_shared, total)

    def refusal(self) -> str:
        """Return why libvirt would not begin, or not start the guest on the destination; "" where it would."""
        for _, path in self.left:
            pool = pool_of(self.source, path)
            if not self.said_shared and (pool is None or pool.type == "dir"):
                return "Unsafe migration: Migration without shared storage is unsafe"
        for _, path in (*self.copied, *self.left):
            if path not in self.dest.files:
                return f"Cannot access storage file '{path}': No such file or directory"
        return ""

    def send(self, size_bytes: int) -> int:
        """Copy so much of the disks, and return how much of `size_bytes` is left for memory."""
        sent = min(size_bytes, self.total_bytes - self.done_bytes)
        self.done_bytes += sent
        return size_bytes - sent

    def finish(self) -> None:
        """Let the copies be what the source has; a file that is copied onto itself is lost, as on a real host."""
        for _, path in self.copied:
            here, there = self.source.files[path], self.dest.files[path]
            there.content = "" if there is here else here.content
            there.allocation_bytes = here.allocation_bytes

    def differing(self) -> Iterator[str]:
        """Yield the paths at which the destination has something else than the guest wrote on the source."""
        for _, path in (*self.copied, *self.left):
            there = self.dest.files.get(path)
            if there is None or there.content != self.source.files[path].content or not there.content:
                yield path
