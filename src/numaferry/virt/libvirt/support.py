"""What this host's libvirt says of a guest that is to be started here: questions only, each with an answer or none.

virConnectGetDomainCapabilities for emulator, machine type, firmware and TPM, virConnectCompareHypervisorCPU for the
expanded CPU, the host's capabilities for CPU and security models, and its storage pools. A question that this libvirt
does not know, or fails at, is answered "not told" with libvirt's words: only a plain no is a no.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from numaferry.errors import InvalidInput
from numaferry.model import NOT_TOLD, YES, Answer, GuestSupport, HostCpu, Said, StartNeeds
from numaferry.request.xml import parse_xml
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from lxml.etree import _Element

#: A guest's CPU that libvirt can hold against a host; for host-passthrough and maximum there is nothing to compare.
_COMPARED: Final = frozenset({"custom", "host-model"})
_ENOENT: Final = 2


def read_support(connection: libvirt.virConnect, needs: StartNeeds) -> GuestSupport:
    """Ask everything in one look. Raises libvirt's error only where the connection has broken."""
    emulator, machine, capabilities = _domain_capabilities(connection, needs)
    secmodels, host_cpu = _host(connection)
    return GuestSupport(
        emulator=emulator,
        machine=machine,
        cpu=_compare_cpu(connection, needs),
        emulated_tpm=_emulated_tpm(capabilities),
        loaders=_loaders(capabilities),
        secmodels=secmodels,
        host_cpu=host_cpu,
        volumes=tuple(_pool(connection, pool) for pool, _ in needs.volumes),
    )


def _no_answer(connection: libvirt.virConnect, error: libvirt.libvirtError) -> Answer:
    """Return "not told" with libvirt's words; raises the error where it is the connection's."""
    if not connection.isAlive():
        raise error
    return Answer(Said.UNKNOWN, error.get_error_message() or str(error))


def _domain_capabilities(connection: libvirt.virConnect, needs: StartNeeds) -> tuple[Answer, Answer, _Element | None]:
    """Return the answers on emulator and machine type, and the capabilities' XML where there is one.

    libvirt refuses both by one error, so where it does the emulator is asked for alone: is it there, the machine type
    is what it lacks.
    """
    asked = (needs.emulator or None, needs.arch or None)
    kind = needs.domain_type
    try:
        root = _parsed(connection.getDomainCapabilities(*asked, needs.machine or None, kind))
    except libvirt.libvirtError as error:
        refused, code = _no_answer(connection, error), error.get_error_code()
    else:
        return YES, YES, root
    try:
        root = _parsed(connection.getDomainCapabilities(*asked, None, kind))
    except libvirt.libvirtError as error:
        answer = _no_answer(connection, error)
        if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == _ENOENT:
            answer = Answer(Said.NO, answer.words)
        return answer, NOT_TOLD, None
    machine = Answer(Said.NO, refused.words) if code == libvirt.VIR_ERR_INVALID_ARG else refused
    return YES, machine, root


def _parsed(xml: str) -> _Element | None:
    with suppress(InvalidInput):
        return parse_xml(xml, "domainCapabilities")
    return None


def _compare_cpu(connection: libvirt.virConnect, needs: StartNeeds) -> Answer:
    """Compare the guest's CPU with what this host's hypervisor can give; NO names what is missing."""
    if needs.cpu_mode not in _COMPARED:
        return NOT_TOLD
    try:
        result = connection.compareHypervisorCPU(
            needs.emulator or None,
            needs.arch or None,
            needs.machine or None,
            needs.domain_type,
            needs.cpu_xml,
            libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
        )
    except libvirt.libvirtError as error:
        answer = _no_answer(connection, error)
        if error.get_error_code() == libvirt.VIR_ERR_CPU_INCOMPATIBLE:
            return Answer(Said.NO, answer.words)
        return answer
    known = {
        libvirt.VIR_CPU_COMPARE_IDENTICAL: YES,
        libvirt.VIR_CPU_COMPARE_SUPERSET: YES,
        libvirt.VIR_CPU_COMPARE_INCOMPATIBLE: Answer(Said.NO, "incompatible"),
    }
    return known.get(result, NOT_TOLD)


def _loaders(root: _Element | None) -> frozenset[str] | None:
    """Return the firmware images that are listed; libvirt leaves out those whose file is not there."""
    loader = None if root is None else root.find("os/loader")
    if loader is None or loader.get("supported") != "yes":
        return None
    return frozenset((one.text or "").strip() for one in loader.findall("value"))


def _emulated_tpm(root: _Element | None) -> Answer:
    tpm = None if root is None else root.find("devices/tpm")
    if tpm is None:
        return NOT_TOLD
    backends = {one.text for one in tpm.iterfind("enum[@name='backendModel']/value")}
    if tpm.get("supported") == "yes" and "emulator" in backends:
        return YES
    return Answer(Said.NO, f"TPM backends: {', '.join(sorted(filter(None, backends))) or 'none'}")


def _host(connection: libvirt.virConnect) -> tuple[frozenset[str] | None, HostCpu]:
    """Return the security models and the CPU that the host's capabilities name."""
    try:
        root = parse_xml(connection.getCapabilities(), "capabilities")
    except libvirt.libvirtError as error:
        _no_answer(connection, error)
        return None, HostCpu()
    models = frozenset((one.text or "").strip() for one in root.iterfind("host/secmodel/model"))
    cpu = root.find("host/cpu")
    return models, HostCpu() if cpu is None else _host_cpu(cpu)


def _host_cpu(cpu: _Element) -> HostCpu:
    counter = cpu.find("counter[@name='tsc']")
    frequency = "" if counter is None else counter.get("frequency", "")
    scaling = {"yes": True, "no": False}.get("" if counter is None else counter.get("scaling", ""))
    return HostCpu(
        vendor=(cpu.findtext("vendor") or "").strip(),
        model=(cpu.findtext("model") or "").strip(),
        features=frozenset(one.get("name", "") for one in cpu.iterfind("feature")),
        tsc_hz=int(frequency) if frequency.isdigit() else 0,
        tsc_scaling=scaling,
    )


def _pool(connection: libvirt.virConnect, pool: str) -> Answer:
    """Tell whether a pool is there and active; whether a volume is in it is for the verdict on its disk to say."""
    try:
        found = connection.storagePoolLookupByName(pool)
        if not found.isActive():
            return Answer(Said.NO, f"storage pool {pool} is not active")
    except libvirt.libvirtError as error:
        answer = _no_answer(connection, error)
        absent = error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL
        return Answer(Said.NO, answer.words) if absent else answer
    return YES
