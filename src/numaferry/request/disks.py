"""The disks of a guest, read from its live domain XML. Pure.

Elements: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms. The live XML names the images below
the one that is written to (``<backingStore>``); they are part of what the guest needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import DiskImage, GuestDisk
from numaferry.request.xml import parse_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml import etree


def guest_disks(xml: str) -> tuple[GuestDisk, ...]:
    """Return every disk of a live domain XML, in its order; raises InvalidInput for XML that can't be read."""
    return tuple(_disk(element) for element in parse_xml(xml).iterfind("devices/disk"))


def disk_target(element: etree._Element) -> str:
    """Return the name of a ``<disk>`` in the guest, "?" where it has none."""
    target = element.find("target")
    return "?" if target is None else target.get("dev", "?")


def _disk(element: etree._Element) -> GuestDisk:
    return GuestDisk(
        target=disk_target(element),
        device=element.get("device", "disk"),
        images=tuple(_images(element)),
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        encrypted=next(element.iter("encryption"), None) is not None,
    )


def _images(element: etree._Element) -> Iterator[DiskImage]:
    """Yield the image of a ``<disk>`` or ``<backingStore>``, then those below it; an empty drive has none."""
    source = element.find("source")
    kind = element.get("type", "")
    # a network disk is one whether or not its source says more
    if source is None or not (kind == "network" or source.attrib or len(source)):
        return
    layer = element.find("driver") if element.tag == "disk" else element.find("format")
    yield DiskImage(
        kind=kind,
        format="" if layer is None else layer.get("type", ""),
        path=source.get("file") or source.get("dev") or source.get("dir") or "",
        pool=source.get("pool", ""),
        volume=source.get("volume", ""),
        hosts=tuple(host.get("name") or host.get("socket") or "" for host in source.iterfind("host")),
    )
    below = element.find("backingStore")
    if below is None:
        # a volume's chain hangs under its source
        below = source.find("backingStore")
    if below is not None:
        yield from _images(below)
