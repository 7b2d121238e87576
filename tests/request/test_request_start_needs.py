"""What a guest's XML asks of the libvirt that is to start it."""

import pytest

from numaferry.errors import InvalidInput
from numaferry.request import start_needs

XML = """
<domain type='qemu'><name>g</name>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader readonly='yes' type='pflash'>/f/CODE.fd</loader></os>
<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>EPYC</model>
<feature policy='require' name='invtsc'/></cpu>
<clock offset='utc'><timer name='hpet' present='no'/><timer name='tsc' frequency='2500000000'/></clock>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='volume'><source pool='fast' volume='db1'/><target dev='vda'/></disk>
<disk type='file'><driver cache='none'/><source file='/a'/><target dev='vdb'/></disk>
<disk type='file'><driver cache='writeback'/><source file='/b'/><target dev='vdc'/></disk>
<disk type='file'><source file='/c'/><target dev='vdd'/><readonly/></disk>
<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vde'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<tpm><backend type='emulator'/></tpm><graphics type='vnc' passwd='hunter2'/></devices>
<seclabel type='dynamic' model='apparmor'/><seclabel type='dynamic' model='dac'/><seclabel type='none' model='none'/>
</domain>"""


def test_everything_that_is_asked_is_read_and_no_secret_kept():
    needs = start_needs(XML)
    assert (needs.domain_type, needs.arch, needs.machine) == ("qemu", "x86_64", "pc-q35-7.2")
    assert needs.emulator == "/usr/bin/qemu-system-x86_64"
    assert (needs.cpu_mode, needs.cpu_check, needs.cpu_features) == ("custom", "full", {"invtsc"})
    assert needs.cpu_xml.startswith("<cpu ")
    assert needs.cpu_xml.endswith("</cpu>")
    assert needs.tsc_hz == 2_500_000_000
    assert (needs.loader, needs.emulated_tpm) == ("/f/CODE.fd", True)
    assert needs.seclabels == {"apparmor", "dac"}
    assert needs.volumes == (("fast", "db1"),)
    assert needs.cached_disks == ("vda", "vdc")
    assert "hunter2" not in repr(needs)


@pytest.mark.parametrize(
    ("cpu", "mode"),
    [
        ("", ""),
        ("<cpu><topology sockets='1' cores='1' threads='1'/></cpu>", ""),
        ("<cpu><model>EPYC</model></cpu>", "custom"),
        ("<cpu mode='host-passthrough'/>", "host-passthrough"),
    ],
)
def test_a_cpu_element_without_a_model_names_no_cpu(cpu, mode):
    assert start_needs(f"<domain>{cpu}</domain>").cpu_mode == mode


def test_what_is_no_domain_is_refused():
    with pytest.raises(InvalidInput):
        start_needs("<pool/>")
