"""What a guest's start asks of a host's libvirt, and what that libvirt answers, before anything is started."""

from __future__ import annotations

import enum

import attrs


class Said(enum.StrEnum):
    """What a libvirt says to one question; unknown where it can't tell, or was not asked."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@attrs.frozen(slots=True)
class Answer:
    """An answer, and libvirt's own words where it gave any."""

    said: Said = Said.UNKNOWN
    words: str = ""


#: Nothing is known: not asked, or this libvirt has no such question.
NOT_TOLD = Answer()
YES = Answer(Said.YES)


@attrs.frozen(slots=True)
class HostCpu:
    """The host's CPU as its capabilities name it; `model` is the nearest of libvirt's own named models."""

    vendor: str = ""
    model: str = ""
    features: frozenset[str] = frozenset()
    #: 0: not told.
    tsc_hz: int = 0
    #: Whether the CPU can give a guest another TSC frequency than its own; None: not told.
    tsc_scaling: bool | None = None


_NO_CPU = HostCpu()


@attrs.frozen(slots=True)
class StartNeeds:
    """What a running guest's XML asks of the libvirt that is to start it; "" and empty: nothing asked."""

    domain_type: str = "kvm"
    arch: str = ""
    machine: str = ""
    emulator: str = ""
    #: ``<cpu mode=>``; "" where the XML has no ``<cpu>``, or one with topology and cells only.
    cpu_mode: str = ""
    #: ``<cpu check=>``: "none" is a CPU that libvirt does not hold against the host.
    cpu_check: str = ""
    #: The ``<cpu>`` element, as the running guest has it expanded.
    cpu_xml: str = ""
    cpu_features: frozenset[str] = frozenset()
    #: Fixed TSC frequency of ``<timer name='tsc' frequency=>``; 0: none.
    tsc_hz: int = 0
    #: Path of the firmware image that ``<os><loader>`` names.
    loader: str = ""
    emulated_tpm: bool = False
    #: Security models of ``<seclabel>``, without "none".
    seclabels: frozenset[str] = frozenset()
    #: (pool, volume) of each disk of type volume.
    volumes: tuple[tuple[str, str], ...] = ()
    #: Targets of writable disks that are not on the network, not shareable, and cached by the host's kernel.
    cached_disks: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class GuestSupport:
    """What one host's libvirt says of one guest's `StartNeeds`; read only, nothing was started."""

    emulator: Answer = NOT_TOLD
    machine: Answer = NOT_TOLD
    #: Can this host's hypervisor give the guest's expanded CPU? NO carries what is missing.
    cpu: Answer = NOT_TOLD
    #: An emulated TPM can be had (swtpm is there).
    emulated_tpm: Answer = NOT_TOLD
    #: Firmware images that this libvirt lists, all of which exist; None: it lists none.
    loaders: frozenset[str] | None = None
    #: Security models of the host; None: not told.
    secmodels: frozenset[str] | None = None
    host_cpu: HostCpu = _NO_CPU
    #: One answer for each of `StartNeeds.volumes`, in its order.
    volumes: tuple[Answer, ...] = ()


#: A host that was not asked anything.
NOT_ASKED = GuestSupport()
