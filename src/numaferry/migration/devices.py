"""Which devices of a guest can't move, or can't be known to: one table over the domain's XML. Pure.

Sources: libvirt's qemuMigrationSrcIsAllowed and qemuMigrationSrcIsSafe (src/qemu/qemu_migration.c, 11.3), QEMU's own
migration blockers, https://libvirt.org/migration.html. libvirt finds most of these only when the job starts; here they
are said before anything is touched.
"""

from __future__ import annotations

from typing import Final

import attrs
from lxml import etree

from numaferry.migration.outcome import Check, Outcome
from numaferry.request.xml import parse_xml


@attrs.frozen(slots=True)
class DeviceRule:
    """One kind of device: which elements, what follows, and why in words (`{n}` is how many there are)."""

    name: str
    xpath: str
    outcome: Outcome
    why: str


RULES: Final[tuple[DeviceRule, ...]] = (
    DeviceRule(
        "hostdev",
        "devices/hostdev",
        Outcome.FAILS,
        "{n} host device(s) are passed through; detaching and attaching again around the move is not supported yet",
    ),
    DeviceRule(
        "interface-hostdev",
        "devices/interface[@type='hostdev' or @type='vdpa']",
        Outcome.FAILS,
        "{n} NIC(s) are a host's own function (hostdev or vdpa), which does not move",
    ),
    DeviceRule(
        "filesystem",
        "devices/filesystem",
        Outcome.FAILS,
        "{n} shared file system(s) (9p or virtiofs): QEMU refuses to move a guest that has one mounted",
    ),
    DeviceRule(
        "shmem",
        "devices/shmem[@role='peer' or not(@role)]",
        Outcome.FAILS,
        "{n} shared memory device(s) with role peer: only role master moves",
    ),
    DeviceRule(
        "nvdimm", "devices/memory[@model='nvdimm']", Outcome.FAILS, "{n} NVDIMM(s) are backed by a file of this host"
    ),
    DeviceRule(
        "dimm-slot",
        "devices/memory[@model='dimm'][not(address/@slot) or not(address/@base)]",
        Outcome.FAILS,
        "{n} memory module(s) without slot and base address: libvirt refuses to move them",
    ),
    DeviceRule("tpm", "devices/tpm[backend/@type='passthrough']", Outcome.FAILS, "{n} TPM(s) are this host's own chip"),
    DeviceRule(
        "tpm-emulator",
        "devices/tpm[backend/@type='emulator']",
        Outcome.UNKNOWN,
        "{n} emulated TPM(s): whether their state travels depends on swtpm and where its state lies",
    ),
    DeviceRule(
        "launch-security",
        "launchSecurity",
        Outcome.FAILS,
        "memory is encrypted by the CPU (launchSecurity), which QEMU can't move",
    ),
    DeviceRule(
        "transient-disk", "devices/disk[transient]", Outcome.FAILS, "{n} transient disk(s): their changes would be lost"
    ),
    DeviceRule(
        "invtsc",
        "cpu[feature[@name='invtsc' and @policy='require']][not(../clock/timer[@name='tsc'][@frequency])]",
        Outcome.FAILS,
        "the CPU has invtsc without a fixed TSC frequency, which QEMU can't move",
    ),
    DeviceRule(
        "block-job",
        "devices/disk[mirror]",
        Outcome.FAILS,
        "{n} disk(s) are being copied or committed by a block job, during which libvirt moves no guest",
    ),
    DeviceRule(
        "slirp",
        "devices/interface[@type='user']",
        Outcome.UNKNOWN,
        "{n} NIC(s) of type user: libvirt refuses a slirp-helper that can't move, and open connections are lost",
    ),
    DeviceRule(
        "serial-log",
        "devices/serial[@type='file' or @type='pipe' or @type='dev']",
        Outcome.UNKNOWN,
        "{n} serial port(s) write to a path that has to exist on the destination too",
    ),
)


def check_devices(xml: str) -> tuple[Check, ...]:
    """Return one check per rule that this guest's XML touches; one "ok" where none does.

    Disks are judged with the destination's storage (`migration.disks`). `xml` is a live domain XML; it is not kept.
    """
    root = parse_xml(xml)
    found = [
        Check(rule.name, rule.outcome, rule.why.format(n=count))
        for rule in RULES
        if (count := len(_elements(root, rule.xpath)))
    ]
    return tuple(found or [Check("devices", Outcome.OK, "no device that is known to stay behind")])


def _elements(root: etree._Element, xpath: str) -> list[etree._Element]:
    """Return the elements that an XPath finds."""
    result = root.xpath(xpath)
    return [one for one in result if isinstance(one, etree._Element)] if isinstance(result, list) else []  # noqa: SLF001  (the class has no other name)
