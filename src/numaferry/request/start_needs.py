"""A running domain's XML → what its start on another host asks of the libvirt there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lxml import etree

from numaferry.model import StartNeeds
from numaferry.request.disks import disk_target
from numaferry.request.xml import parse_xml

if TYPE_CHECKING:
    from lxml.etree import _Element

#: Cache modes by which no data of the guest's disks stays in the host's page cache.
_UNCACHED: Final = frozenset({"none", "directsync"})
_NETWORK_DISKS: Final = frozenset({"network", "vhostuser"})


def start_needs(xml: str) -> StartNeeds:
    """Return what the XML asks; best the migratable one, which is what libvirt sends. Nothing secret is kept.

    Raises InvalidInput for what is no domain XML.
    """
    root = parse_xml(xml)
    os_type, cpu = root.find("os/type"), root.find("cpu")
    models = {label.get("model", "") for label in root.iterfind("seclabel")}
    return StartNeeds(
        domain_type=root.get("type", "kvm"),
        arch="" if os_type is None else os_type.get("arch", ""),
        machine="" if os_type is None else os_type.get("machine", ""),
        emulator=(root.findtext("devices/emulator") or "").strip(),
        cpu_mode=_cpu_mode(cpu),
        cpu_check="" if cpu is None else cpu.get("check", ""),
        cpu_xml="" if cpu is None else etree.tostring(cpu, encoding="unicode", with_tail=False),
        cpu_features=frozenset() if cpu is None else frozenset(one.get("name", "") for one in cpu.iterfind("feature")),
        tsc_hz=_tsc_hz(root),
        loader=(root.findtext("os/loader") or "").strip(),
        emulated_tpm=any(one.get("type") == "emulator" for one in root.iterfind("devices/tpm/backend")),
        seclabels=frozenset(models - {"", "none"}),
        volumes=tuple(
            (source.get("pool", ""), source.get("volume", ""))
            for source in root.iterfind("devices/disk[@type='volume']/source")
        ),
        cached_disks=tuple(disk_target(disk) for disk in root.iterfind("devices/disk") if _cached(disk)),
    )


def _cpu_mode(cpu: _Element | None) -> str:
    """Return the mode; an element with neither mode nor model describes only sockets and cells."""
    if cpu is None:
        return ""
    return cpu.get("mode") or ("custom" if cpu.find("model") is not None else "")


def _tsc_hz(root: _Element) -> int:
    words = [one.get("frequency", "") for one in root.iterfind("clock/timer[@name='tsc']")]
    return next((int(word) for word in words if word.isdigit()), 0)


def _cached(disk: _Element) -> bool:
    """Tell whether libvirt's rule for safe disks (qemuMigrationSrcIsSafe) asks for the cache mode of this one."""
    driver = disk.find("driver")
    cache = "" if driver is None else driver.get("cache", "")
    safe = any(disk.find(name) is not None for name in ("readonly", "shareable"))
    return (
        disk.find("source") is not None
        and disk.get("type") not in _NETWORK_DISKS
        and cache not in _UNCACHED
        and not safe
    )
