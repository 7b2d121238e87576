"""What people are shown of a domain XML: differences, and never a secret."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import InvalidInput
from numaferry.request import parse_domain
from numaferry.virt.libvirt.domain_xml import changed_paths, strip_secrets, xml_difference

#: Time limits say nothing of a law where the machine is shared.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GUEST = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>db1</name>
  <sysinfo type='fwcfg'>
    <entry name='opt/org.example/seed'>S3CRET-seed</entry>
  </sysinfo>
  <vcpu>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='2'/>
    <vcpupin vcpu='1' cpuset='3'/>
  </cputune>
  <devices>
    <disk type='network'>
      <auth username='admin'><secret type='ceph' uuid='9f1b'/></auth>
      <source protocol='https' name='disk'>
        <cookies><cookie name='token'>S3CRET-cookie</cookie></cookies>
      </source>
    </disk>
    <interface type='direct'>
      <mac address='52:54:00:aa:00:01'/>
      <source dev='ens4f0' mode='bridge'/>
    </interface>
    <graphics type='vnc' port='5900' passwd='S3CRET-vnc' passwdValidTo='2030-01-01T00:00:00'>
      <listen type='address'/>
    </graphics>
    <graphics type='spice' passwd='S3CRET-spice'/>
  </devices>
  <launchSecurity type='sev'>
    <cbitpos>47</cbitpos>
    <dhCert>S3CRET-cert</dhCert>
    <session>S3CRET-session</session>
  </launchSecurity>
  <qemu:commandline>
    <qemu:arg value='-object'/>
    <qemu:arg value='secret,id=s0,data=S3CRET-arg'/>
    <qemu:env name='API_TOKEN' value='S3CRET-env'/>
  </qemu:commandline>
</domain>"""


def test_no_secret_is_left_and_everything_else_is():
    shown = strip_secrets(GUEST)
    assert "S3CRET" not in shown
    for kept in ("uuid='9f1b'", "ens4f0", "-object", "<cbitpos>47", "port='5900'"):
        assert kept.replace("'", '"') in shown


def test_the_domain_is_known_to_have_secrets():
    assert parse_domain(GUEST).has_secrets
    assert not parse_domain(strip_secrets(GUEST)).has_secrets


def test_a_difference_is_short_readable_and_without_secrets():
    after = GUEST.replace("cpuset='3'", "cpuset='7'").replace("S3CRET-vnc", "S3CRET-other")
    assert xml_difference(GUEST, after).splitlines() == [
        "--- source",
        "+++ dest",
        "@@ -7,3 +7,3 @@",
        '     <vcpupin vcpu="0" cpuset="2"/>',
        '-    <vcpupin vcpu="1" cpuset="3"/>',
        '+    <vcpupin vcpu="1" cpuset="7"/>',
        "   </cputune>",
    ]


def test_layout_and_order_of_attributes_are_no_difference():
    assert xml_difference("<domain><name>x</name></domain>", "<domain>\n  <name>x</name>\n</domain>") == ""
    assert changed_paths("<domain a='1' b='2'/>", "<domain b='2' a='1'/>") == ()


def test_paths_name_pins_by_number_and_nics_by_mac():
    after = GUEST.replace("cpuset='3'", "cpuset='7'").replace("ens4f0", "enp7s0").replace("<vcpu>2", "<vcpu>3")
    assert changed_paths(GUEST, after) == (
        "/domain/cputune/vcpupin[@vcpu='1']/@cpuset",
        "/domain/devices/interface[mac/@address='52:54:00:aa:00:01']/source/@dev",
        "/domain/vcpu",
    )


def test_what_was_added_and_removed_is_told_with_its_attributes():
    after = GUEST.replace("<vcpupin vcpu='1' cpuset='3'/>", "<emulatorpin cpuset='2-3'/>")
    assert changed_paths(GUEST, after) == (
        "/domain/cputune/emulatorpin",
        "/domain/cputune/emulatorpin/@cpuset",
        "/domain/cputune/vcpupin[@vcpu='1']",
        "/domain/cputune/vcpupin[@vcpu='1']/@cpuset",
        "/domain/cputune/vcpupin[@vcpu='1']/@vcpu",
    )


def test_the_second_of_two_like_elements_is_told_by_its_place():
    assert changed_paths("<domain><a/><a x='1'/></domain>", "<domain><a/><a x='2'/></domain>") == ("/domain/a[2]/@x",)


@pytest.mark.parametrize(
    "function", [strip_secrets, lambda xml: xml_difference(xml, xml), lambda xml: changed_paths(xml, xml)]
)
def test_malformed_xml_is_an_input_error_that_quotes_nothing(function):
    with pytest.raises(InvalidInput) as caught:
        function("<domain passwd='S3CRET'")
    assert "S3CRET" not in caught.value.message


@on_a_busy_machine
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).filter(lambda word: word.strip()))
def test_law_no_password_survives_in_a_difference(word):
    secret = "pw-" + word.translate(str.maketrans({"<": "", "&": "", "'": "", '"': ""}))
    before = f"<domain><devices><graphics type='vnc' passwd='{secret}'/></devices></domain>"
    assert "pw-" not in xml_difference(before, "<domain/>")
