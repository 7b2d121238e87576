"""What only the start of a job can tell: libvirt's words → the reason code that a check would have given. Pure.

libvirt has few error codes of its own and tells the rest in words, so the table goes by these (in English, which its
daemon speaks where its locale is C). Words that no row knows have no code; they are quoted either way.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from numaferry.errors import HypervisorError


class StartError(NamedTuple):
    """One reason: libvirt's words, as a regular expression, and what to do."""

    code: str
    words: str
    hint: str


#: The first row that matches counts. Words: libvirt 9.0 to 11.3 (src/qemu, src/conf, src/cpu, src/security), QEMU 7.2.
START_ERRORS: Final = (
    StartError("abi", r"(does not|doesn't) match source|\bABI\b", "the destination XML differs in what the guest sees"),
    StartError(
        "cpu",
        r"guest CPU doesn't match specification|not provide required features|CPU(s)? (are|is) (not compatible"
        r"|incompatible)|incompatible with host CPU",
        "choose a host whose CPU has all that the guest's has",
    ),
    StartError(
        "tsc-frequency", r"TSC frequency .* outside tolerance", "choose a host of that frequency, or that scales it"
    ),
    StartError("machine", r"machine type|the machine '", "give the destination the QEMU of the source, or a newer one"),
    StartError("emulator", r"Cannot check QEMU binary", "install the same QEMU at the same path"),
    StartError(
        "seclabel", r"Unable to find security driver", "use one security driver on all hosts, or take off the label"
    ),
    StartError("not-there", r"already exists with uuid|is already active as", "end or undefine that domain"),
    StartError(
        "disk-cache", r"disks use cache other than none", "give the disk cache none, or the source QEMU 4.0 or newer"
    ),
    StartError("disks", r"without shared storage is unsafe|Cannot access storage file", "the disk has to be on both"),
    StartError(
        "image-lock",
        r"Failed to get .*lock|lock driver .* different",
        "another process has the image open, or the hosts have different lock managers",
    ),
    StartError("volumes", r"[Ss]torage (pool|vol)", "define and start the pool on the destination"),
    StartError(
        "links",
        r"Cannot get interface MTU|Unable to get index for interface|[Nn]etwork not found|network '.*' is not active",
        "bring the link up there, or name another in the host's configuration",
    ),
    StartError(
        "mounts",
        r"hugetlbfs (filesystem is not mounted|mount)",
        "mount hugetlbfs for this page size on the destination",
    ),
    StartError(
        "pages",
        r"map backing store|[Cc]annot allocate memory",
        "numaferry audit of that host shows what took its pages",
    ),
    StartError(
        "memlock", r"cannot limit locked memory", "libvirtd there may not raise the limit: give it CAP_SYS_RESOURCE"
    ),
    StartError(
        "topology", r"NUMA node \S+ is unavailable|cannot set CPU affinity", "numaferry audit of that host, then again"
    ),
    StartError("tpm-backend", r"swtpm", "install swtpm on the destination; its state has to be reachable there"),
    StartError("firmware", r"master var store|nvram|OVMF|firmware", "install the same firmware at the same path"),
    StartError(
        "peer",
        r"unable to connect to server|connect to remote libvirt|unable to resolve|authentication failed",
        "the source's libvirtd has to reach the destination's, and to log in there: try it from the source",
    ),
    StartError(
        "listen",
        r"Cannot assign requested address|Failed to (bind|find an available port)",
        "migration_address is not an address of the destination itself: write it as a URI, tcp://ADDRESS",
    ),
    StartError("snapshots", r"cannot migrate domain with \d+ snapshots", "delete the snapshots"),
    StartError("block-job", r"active block job", "wait for the block job, or end it"),
    StartError("io-error", r"(with|due to) I/O error", "mend the disk's back end, then resume the guest"),
    StartError("auto-destroy", r"auto destroy", "the guest ends with the client that started it: it can't be moved"),
    StartError("slirp", r"slirp-helper|dbus-vmstate", "give the guest another network than slirp"),
    StartError("job", r"cannot acquire state change lock", "another job holds the guest: try again later"),
    StartError(
        "devices",
        r"cannot migrate (a )?domain|cannot be migrated|(device|disk) is not supported|migration is disabled",
        "take the device off, or shut the guest down to move it",
    ),
)


def start_error(error: Exception | None) -> StartError | None:
    """Return the row that knows what libvirt said; None for other errors and for words that no row knows."""
    if not isinstance(error, HypervisorError):
        return None
    return next((row for row in START_ERRORS if re.search(row.words, error.message)), None)


def with_code(error: Exception) -> str:
    """Return the error's sentence, after its reason code where it has one."""
    row = start_error(error)
    return str(error) if row is None else f"{row.code}: {error}"
