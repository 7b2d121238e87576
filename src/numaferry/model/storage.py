"""Disks of a guest and the storage of a host, as libvirt tells them: plain values.

Words are libvirt's (https://libvirt.org/formatdomain.html, https://libvirt.org/formatstorage.html); sizes in bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen(slots=True)
class DiskImage:
    """One image of a disk's chain: where it lies, and in which format ("raw", "qcow2", ...).

    `kind` is the type that libvirt's XML gives it: file, block, volume, network, ... A path is only of a file or block
    device, `pool` and `volume` only of a volume, `hosts` only of a network disk.
    """

    kind: str
    format: str = ""
    path: str = ""
    pool: str = ""
    volume: str = ""
    #: The servers of a network disk, by name or address; the path of a socket for one that is reached by a socket.
    hosts: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Where it lies, for a sentence."""
        return self.path or (f"volume {self.volume} of pool {self.pool}" if self.pool else self.kind)


@attrs.frozen(slots=True)
class GuestDisk:
    """One disk of a running guest; an empty drive has no images, else the first one is what the guest writes to."""

    target: str
    #: disk, cdrom, floppy or lun
    device: str
    images: tuple[DiskImage, ...] = ()
    readonly: bool = False
    #: libvirt's ``<shareable/>``: several guests may write to it at once.
    shareable: bool = False
    #: Any image of it is (libvirt's ``<encryption>``).
    encrypted: bool = False


@attrs.frozen(slots=True)
class DiskSize:
    """How big a guest sees its disk, and how much of that its image takes on the host."""

    capacity_bytes: int
    allocation_bytes: int


@attrs.frozen(slots=True)
class StoragePool:
    """An active storage pool; `source` are (what, value) pairs that say which storage it is, equal where it is one."""

    name: str
    type: str
    #: The directory in which its volumes have their paths; "" for pools without one (rbd, gluster).
    target: str
    source: tuple[tuple[str, str], ...] = ()
    available_bytes: int = 0


@attrs.frozen(slots=True)
class Volume:
    """An image that lies in a pool; as one to be made, `allocation_bytes` is 0 and `pool` the one that takes it."""

    path: str
    pool: str
    format: str
    capacity_bytes: int
    allocation_bytes: int = 0
    #: The image below it, for an overlay.
    backing_path: str = ""
    backing_format: str = ""


@attrs.frozen(slots=True)
class HostStorage:
    """Active pools of a host, and which of the paths that were asked for have an image in one of them."""

    pools: tuple[StoragePool, ...] = ()
    volumes: Mapping[str, Volume] = attrs.field(factory=dict)
