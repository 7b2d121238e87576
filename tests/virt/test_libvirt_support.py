"""What libvirt's answers about a guest's start are read as: only a plain no is a no."""

import libvirt
import pytest

from numaferry.model import NOT_TOLD, YES, Said, StartNeeds
from numaferry.virt.libvirt.driver import LibvirtHypervisor
from numaferry.virt.libvirt.support import read_support

NEEDS = StartNeeds("kvm", "x86_64", "pc-q35-7.2", "/usr/bin/qemu", "custom", "full", "<cpu mode='custom'/>")
DOMAIN_CAPABILITIES = """
<domainCapabilities><path>/usr/bin/qemu</path><os supported='yes'>
<loader supported='yes'><value>/f/CODE.fd</value><enum name='type'><value>rom</value></enum></loader></os>
<devices><tpm supported='yes'><enum name='model'><value>tpm-tis</value></enum>
<enum name='backendModel'><value>passthrough</value>{swtpm}</enum></tpm></devices></domainCapabilities>"""
CAPABILITIES = """
<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>
<counter name='tsc' frequency='2500000000' scaling='yes'/><feature name='ht'/></cpu>
<secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model></secmodel></host></capabilities>"""


class Refusal(libvirt.libvirtError):
    """An error of libvirt with this code."""

    def __init__(self, code, words="it says no", number=0):
        super().__init__(words)
        self.code, self.words, self.number = code, words, number

    def get_error_code(self):
        return self.code

    def get_error_message(self):
        return self.words

    def get_int1(self):
        return self.number


class Daemon:
    """A connection whose answers are given; an answer that is an error is raised."""

    def __init__(self, *, machine=None, emulator=None, cpu=None, capabilities=CAPABILITIES, pool=None, alive=True):
        self.answers = {"machine": machine, "emulator": emulator, "cpu": cpu, "caps": capabilities, "pool": pool}
        self.alive = alive

    def _answer(self, name):
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    def isAlive(self):  # noqa: N802
        return self.alive

    def getCapabilities(self):  # noqa: N802
        return self._answer("caps")

    def getDomainCapabilities(self, _emulator, _arch, machine, _kind):  # noqa: N802
        return self._answer("machine" if machine else "emulator")

    def compareHypervisorCPU(self, *_):  # noqa: N802
        return self._answer("cpu")

    def storagePoolLookupByName(self, _name):  # noqa: N802
        return self._answer("pool")


def capabilities(*, swtpm=True):
    return DOMAIN_CAPABILITIES.format(swtpm="<value>emulator</value>" if swtpm else "")


def test_a_host_that_can_start_the_guest_says_so_in_all():
    able = read_support(Daemon(machine=capabilities(), cpu=libvirt.VIR_CPU_COMPARE_SUPERSET), NEEDS)
    assert (able.emulator, able.machine, able.cpu, able.emulated_tpm) == (YES, YES, YES, YES)
    assert able.loaders == {"/f/CODE.fd"}
    assert able.secmodels == {"apparmor", "dac"}
    assert (able.host_cpu.vendor, able.host_cpu.model) == ("AMD", "EPYC")
    assert (able.host_cpu.tsc_hz, able.host_cpu.tsc_scaling) == (2_500_000_000, True)


def test_a_machine_type_is_missing_where_the_emulator_alone_is_there():
    daemon = Daemon(machine=Refusal(libvirt.VIR_ERR_INVALID_ARG), emulator=capabilities(swtpm=False), cpu=0)
    said = read_support(daemon, NEEDS)
    assert (said.emulator, said.machine.said, said.machine.words) == (YES, Said.NO, "it says no")
    assert (said.emulated_tpm.said, said.cpu.said) == (Said.NO, Said.NO)


def test_an_emulator_is_missing_only_where_its_file_is():
    gone = Refusal(libvirt.VIR_ERR_SYSTEM_ERROR, "Cannot check QEMU binary /usr/bin/qemu", 2)
    said = read_support(Daemon(machine=gone, emulator=gone, cpu=gone), NEEDS)
    assert (said.emulator.said, said.machine, said.cpu.said) == (Said.NO, NOT_TOLD, Said.UNKNOWN)
    other = Refusal(libvirt.VIR_ERR_INVALID_ARG)
    assert read_support(Daemon(machine=other, emulator=other, cpu=other), NEEDS).emulator.said is Said.UNKNOWN


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refusal(libvirt.VIR_ERR_CPU_INCOMPATIBLE, "missing features: avx512f"), Said.NO),
        (Refusal(libvirt.VIR_ERR_OPERATION_UNSUPPORTED), Said.UNKNOWN),
        (Refusal(libvirt.VIR_ERR_NO_SUPPORT), Said.UNKNOWN),
        (Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "unknown CPU feature: vmx-x"), Said.UNKNOWN),
    ],
)
def test_a_comparison_that_fails_is_no_refusal(error, said):
    answer = read_support(Daemon(machine=capabilities(), cpu=error), NEEDS).cpu
    assert (answer.said, answer.words) == (said, error.words)


def test_a_pool_that_is_not_there_is_a_no_and_a_daemon_without_pools_is_not():
    needs = StartNeeds(volumes=(("fast", "db1"),))
    for code, said in ((libvirt.VIR_ERR_NO_STORAGE_POOL, Said.NO), (libvirt.VIR_ERR_NO_SUPPORT, Said.UNKNOWN)):
        (answer,) = read_support(Daemon(emulator=capabilities(), pool=Refusal(code)), needs).volumes
        assert answer.said is said


def test_a_broken_connection_is_no_answer():
    broken = Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "End of file")
    with pytest.raises(libvirt.libvirtError, match="End of file"):
        read_support(Daemon(machine=broken, alive=False), NEEDS)


def test_libvirts_own_test_driver_can_compare_no_cpu_and_refuses_nothing():
    with LibvirtHypervisor("test:///default") as host:
        said = host.guest_support(StartNeeds("test", "i686", "", "", "custom", "full", "<cpu mode='custom'/>"))
    answers = (said.emulator, said.machine, said.cpu, said.emulated_tpm)
    assert Said.NO not in {answer.said for answer in answers}
    assert said.cpu.said is Said.UNKNOWN
