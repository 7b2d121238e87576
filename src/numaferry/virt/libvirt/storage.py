"""Storage pools and volumes over libvirt's storage driver (https://libvirt.org/formatstorage.html).

The only way to see, make or remove an image on a host where nothing of ours runs. libvirt remembers what a pool held
when it was last read, so a pool that matters is read anew (refreshed) first.
"""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lxml import etree

from numaferry.errors import NotFound
from numaferry.model import DiskSize, HostStorage, StoragePool, Volume
from numaferry.request.xml import parse_xml
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABSENT: Final = frozenset({libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL})
#: Elements of a pool's ``<source>`` that say which storage it is, and the attribute that does; "" for its text.
_SOURCE: Final = (("host", "name"), ("dir", "path"), ("device", "path"), ("name", ""), ("adapter", "name"))


def read_storage(connection: libvirt.virConnect, paths: Sequence[str]) -> HostStorage:
    """Return active pools, and which of `paths` have a volume; empty where the host has no storage driver.

    A pool of type dir in whose directory one of the paths lies is read anew; one of another type only where libvirt
    does not know the path, since a refresh that fails closes the pool (virStoragePoolRefresh): netfs is unmounted.
    """
    try:
        pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    except libvirt.libvirtError:
        # no driver, or (modular daemons) no virtstoraged: nothing is known of its storage, which proves nothing
        if not connection.isAlive():
            raise
        return HostStorage()
    seen = []
    for pool in pools:
        now = read_pool(pool.XMLDesc())
        inside = [path for path in paths if posixpath.dirname(path) == now.target]
        if inside and (now.type == "dir" or any(_volume(connection, path) is None for path in inside)):
            _refresh(connection, pool)
            now = read_pool(pool.XMLDesc())
        seen.append(now)
    volumes = {path: found for path in paths if (found := _volume(connection, path)) is not None}
    return HostStorage(tuple(sorted(seen, key=lambda pool: pool.name)), volumes)


def _refresh(connection: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
    """Read a pool anew; where libvirt can't now (another image is being made in it), what it knows has to do."""
    try:
        pool.refresh()
    except libvirt.libvirtError:
        if not connection.isAlive():
            raise


def read_pool(xml: str) -> StoragePool:
    """Return a pool by its XML."""
    root = parse_xml(xml, "pool")
    return StoragePool(
        name=root.findtext("name") or "",
        type=root.get("type", ""),
        target=(root.findtext("target/path") or "").rstrip("/"),
        source=tuple(sorted(_source(root))),
        available_bytes=int(root.findtext("available") or 0),
    )


def _source(root: etree._Element) -> list[tuple[str, str]]:
    """Return what says which storage a pool is; a server with its port, a path without a slash at its end."""
    found = []
    for tag, attribute in _SOURCE:
        for element in root.iterfind(f"source/{tag}"):
            value = element.get(attribute, "") if attribute else (element.text or "")
            if tag == "host":
                value = f"{value}:{element.get('port', '')}"
            found.append((tag, value if value == "/" else value.rstrip("/")))
    return found


def _volume(connection: libvirt.virConnect, path: str) -> Volume | None:
    try:
        volume = connection.storageVolLookupByPath(path)
        pool = volume.storagePoolLookupByVolume().name()
        return read_volume(volume.XMLDesc(), path, pool)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _ABSENT:
            return None
        raise


def read_volume(xml: str, path: str, pool: str) -> Volume:
    """Return a volume by its XML, in which sizes are bytes."""
    root = parse_xml(xml, "volume")
    kind, below = root.find("target/format"), root.find("backingStore/format")
    return Volume(
        path=path,
        pool=pool,
        format="" if kind is None else kind.get("type", ""),
        capacity_bytes=int(root.findtext("capacity") or 0),
        allocation_bytes=int(root.findtext("allocation") or 0),
        backing_path=root.findtext("backingStore/path") or "",
        backing_format="" if below is None else below.get("type", ""),
    )


def volume_xml(volume: Volume) -> str:
    """Return the XML of an image that is to be made, with nothing allocated."""
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = posixpath.basename(volume.path)
    etree.SubElement(root, "capacity", unit="bytes").text = str(volume.capacity_bytes)
    etree.SubElement(root, "allocation", unit="bytes").text = "0"
    etree.SubElement(etree.SubElement(root, "target"), "format", type=volume.format)
    if volume.backing_path:
        below = etree.SubElement(root, "backingStore")
        etree.SubElement(below, "path").text = volume.backing_path
        etree.SubElement(below, "format", type=volume.backing_format)
    return etree.tostring(root, encoding="unicode")


def create(connection: libvirt.virConnect, volume: Volume) -> None:
    """Make an image; libvirt refuses where the path is taken, and removes what it could not make whole."""
    connection.storagePoolLookupByName(volume.pool).createXML(volume_xml(volume))


def delete(connection: libvirt.virConnect, path: str) -> None:
    """Remove an image that `read_storage` has just shown. Raises NotFound where no pool has it."""
    try:
        connection.storageVolLookupByPath(path).delete()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _ABSENT:
            raise NotFound(f"no pool has a volume at {path}", hint="virsh vol-list shows what a pool has") from None
        raise


def read_disk_sizes(domain: libvirt.virDomain, targets: Sequence[str]) -> dict[str, DiskSize]:
    """Return the sizes that QEMU tells of the disks of a running domain."""
    sizes = {}
    for target in targets:
        # an empty drive has no size
        with suppress(libvirt.libvirtError):
            capacity, allocation, _physical = domain.blockInfo(target)
            sizes[target] = DiskSize(capacity, allocation)
    return sizes
