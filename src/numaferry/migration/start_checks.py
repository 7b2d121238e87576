"""Can the destination's libvirt start this guest at all? CPU, emulator, machine type, firmware, TPM, labels, volumes.

Pure: held against each other are what the guest's XML asks (`StartNeeds`), what the destination's libvirt says of it,
and what the *source's* libvirt says of the same guest, which runs there. Where the source says no too, the question
proves nothing (nova's CPU comparison refused guests wrongly: Launchpad 1898715, 1913716), and the outcome is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration.outcome import Check, Outcome
from numaferry.model import NOT_ASKED, Answer, GuestSupport, Said, StartNeeds, version_text

if TYPE_CHECKING:
    from collections.abc import Callable

#: libvirt's tolerance for a guest's fixed TSC frequency (qemuProcessStartValidateTSC), as KVM's own.
TSC_TOLERANCE_PPM: Final = 250
#: QEMU drops its caches of an image at the switch by itself from here on (QAPI: blockdev-add, file, drop-cache), and
#: libvirt then asks for no cache mode (qemuMigrationSrcIsSafe).
DROPS_CACHES: Final = 4_000_000
#: Nobody compares these for libvirt: the guest has whatever its host has.
_OPEN_CPUS: Final = {
    "": "its XML names no CPU model, so it has QEMU's own default for its machine type",
    "maximum": "its CPU is all that its host can give (maximum), which libvirt does not compare",
}


@attrs.frozen(slots=True)
class StartAsked:
    """What destinations are held against: the guest's needs, and what its own host says of them."""

    needs: StartNeeds
    source: GuestSupport = NOT_ASKED


@attrs.frozen(slots=True)
class _Held:
    """One guest against one destination; `qemu` is the source's version."""

    needs: StartNeeds
    source: GuestSupport
    dest: GuestSupport
    host: str
    qemu: int


def check_start(asked: StartAsked, dest: GuestSupport, host: str, *, source_qemu: int) -> tuple[Check, ...]:
    """Return one check for each thing that this guest asks of the libvirt of `host`."""
    held = _Held(asked.needs, asked.source, dest, host, source_qemu)
    return tuple(check for look in _LOOKS if (check := look(held)) is not None)


def _emulator(held: _Held) -> Check:
    path = held.needs.emulator or "default emulator"
    return _answered(
        "emulator",
        held.dest.emulator,
        yes=f"{path} is on {held.host}",
        no=f"host {held.host} has no {path}",
        unknown=f"libvirt on {held.host} does not tell of {path}",
    )


def _machine(held: _Held) -> Check:
    name = held.needs.machine or "(default)"
    return _answered(
        "machine",
        held.dest.machine,
        yes=f"machine type {name} is known on {held.host}",
        no=f"host {held.host} can't run machine type {name}",
        unknown=f"libvirt on {held.host} does not tell of machine type {name}",
    )


def _cpu(held: _Held) -> Check:
    mode = held.needs.cpu_mode
    if mode in _OPEN_CPUS:
        return _unknown("cpu", _OPEN_CPUS[mode])
    return _passthrough(held) if mode == "host-passthrough" else _compared(held)


def _compared(held: _Held) -> Check:
    """Believe a no only where the same question about the guest's own host, on which it runs, is answered yes."""
    answer = held.dest.cpu
    if answer.said is Said.YES:
        return Check("cpu", Outcome.OK, f"the hypervisor of {held.host} can give its CPU, all features of it")
    if answer.said is Said.UNKNOWN:
        return _unknown("cpu", f"libvirt on {held.host} can't compare its CPU", answer.words)
    words = f"host {held.host} can't give its CPU: {answer.words}"
    if held.source.cpu.said is not Said.YES:
        return _unknown(
            "cpu", f"{words}; but libvirt on its own host does not say that it could", held.source.cpu.words
        )
    if held.needs.cpu_check == "none":
        return _unknown("cpu", f"{words}; libvirt lets it start (check='none'), without what is missing")
    return Check("cpu", Outcome.FAILS, words)


def _passthrough(held: _Held) -> Check:
    """Compare the hosts: libvirt lets such a guest go anywhere, where it may crash (formatdomain, host-passthrough)."""
    here, there = held.source.host_cpu, held.dest.host_cpu
    if not (here.vendor and there.vendor):
        return _unknown("cpu", "the CPU is passed through, and the hosts do not both tell theirs")
    if here.vendor != there.vendor:
        words = f"the CPU is passed through: {here.vendor} on the source, {there.vendor} on {held.host}"
        return Check("cpu", Outcome.FAILS, words)
    lacking = sorted(here.features - there.features)
    seen = f"{here.model} on the source, {there.model} on {held.host}"
    if here.model != there.model or lacking:
        more = f", which lacks {', '.join(lacking)}" if lacking else ""
        return _unknown("cpu", f"the CPU is passed through and the hosts' are not the same: {seen}{more}")
    return _unknown(
        "cpu", f"the CPU is passed through: {seen}; microcode and kernel, which have to be equal too, are not told"
    )


def _tsc(held: _Held) -> Check | None:
    """Apply libvirt's rule for a fixed TSC frequency, which it applies when the guest starts."""
    wanted, cpu = held.needs.tsc_hz, held.dest.host_cpu
    if not wanted:
        return None
    if not cpu.tsc_hz:
        return _unknown(
            "tsc-frequency", f"host {held.host} does not tell its TSC frequency; the guest's is {wanted} Hz"
        )
    words = f"the guest's TSC runs at {wanted} Hz, that of {held.host} at {cpu.tsc_hz} Hz"
    if abs(cpu.tsc_hz - wanted) <= cpu.tsc_hz * TSC_TOLERANCE_PPM // 1_000_000:
        return Check("tsc-frequency", Outcome.OK, f"{words}, within {TSC_TOLERANCE_PPM} ppm")
    if cpu.tsc_scaling:
        return Check("tsc-frequency", Outcome.OK, f"{words}, which can scale it")
    if cpu.tsc_scaling is None or held.needs.domain_type != "kvm":
        return _unknown("tsc-frequency", f"{words}; whether it can be scaled is not told")
    return Check("tsc-frequency", Outcome.FAILS, f"{words}, which can't scale it")


def _firmware(held: _Held) -> Check | None:
    loader, listed = held.needs.loader, held.dest.loaders
    if not loader:
        return None
    if listed is not None and loader in listed:
        return Check("firmware", Outcome.OK, f"firmware {loader} is on {held.host}")
    there = "lists none" if listed is None else f"lists {', '.join(sorted(listed)) or 'none'}"
    return _unknown("firmware", f"libvirt on {held.host} does not list firmware {loader} ({there})")


def _tpm(held: _Held) -> Check | None:
    if not held.needs.emulated_tpm:
        return None
    return _answered(
        "tpm-backend",
        held.dest.emulated_tpm,
        yes=f"emulated TPMs can be had on {held.host}",
        no=f"host {held.host} has no emulated TPM (swtpm)",
        unknown=f"libvirt on {held.host} does not tell whether it has swtpm",
    )


def _seclabel(held: _Held) -> Check | None:
    """Refuse what libvirt does: "Unable to find security driver for model" (virSecurityManagerCheckModel)."""
    wanted, there, here = held.needs.seclabels, held.dest.secmodels, held.source.secmodels
    if not wanted:
        return None
    names = ", ".join(sorted(wanted))
    if there is None:
        return _unknown(
            "seclabel", f"host {held.host} does not tell its security models; the guest has labels of {names}"
        )
    missing = wanted - there
    if not missing:
        return Check("seclabel", Outcome.OK, f"security models {names} are on {held.host}")
    words = f"host {held.host} has no security model {', '.join(sorted(missing))} (it has: {_listed(there)})"
    if here is None or not missing <= here:
        return _unknown("seclabel", f"{words}; but its own host does not tell of it either")
    return Check("seclabel", Outcome.FAILS, words)


def _volumes(held: _Held) -> Check | None:
    """Refuse volumes of pools that are missing, or not active, on the destination."""
    if not held.needs.volumes:
        return None
    answers = [*zip(held.needs.volumes, held.dest.volumes, strict=False)]
    missing = [f"{pool}/{volume} ({said.words})" for (pool, volume), said in answers if said.said is Said.NO]
    if missing:
        return Check("volumes", Outcome.FAILS, f"host {held.host} lacks the pool of: {'; '.join(missing)}")
    known = sum(said.said is Said.YES for _, said in answers)
    count = len(held.needs.volumes)
    if known < count:
        return _unknown("volumes", f"libvirt on {held.host} tells of the pools of {known} of {count} volumes")
    return Check("volumes", Outcome.OK, f"the pools of all {count} volumes are active on {held.host}")


def _disk_cache(held: _Held) -> Check | None:
    """Apply libvirt's rule for shared disks: cache none or directsync, or a QEMU that drops its caches itself."""
    disks = held.needs.cached_disks
    if not disks:
        return None
    words = f"{len(disks)} disk(s) ({', '.join(disks)}) use the host's page cache"
    if not held.qemu:
        return _unknown("disk-cache", f"{words}, and the version of QEMU is not told")
    version = version_text(held.qemu)
    if held.qemu >= DROPS_CACHES:
        return Check("disk-cache", Outcome.OK, f"{words}, which QEMU {version} drops at the switch")
    return Check("disk-cache", Outcome.FAILS, f"{words}, which QEMU {version} does not drop: use cache none")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _answered(name: str, answer: Answer, *, yes: str, no: str, unknown: str) -> Check:
    """Return the check for an answer; libvirt's own words follow where it did not say yes."""
    said = {
        Said.YES: Check(name, Outcome.OK, yes),
        Said.NO: Check(name, Outcome.FAILS, f"{no}: {answer.words}"),
        Said.UNKNOWN: _unknown(name, unknown, answer.words),
    }
    return said[answer.said]


def _unknown(name: str, words: str, said: str = "") -> Check:
    return Check(name, Outcome.UNKNOWN, f"{words}: {said}" if said else words)


_LOOKS: Final[tuple[Callable[[_Held], Check | None], ...]] = (
    _emulator,
    _machine,
    _cpu,
    _tsc,
    _firmware,
    _tpm,
    _seclabel,
    _volumes,
    _disk_cache,
)
