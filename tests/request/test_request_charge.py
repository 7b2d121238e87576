"""What a domain that is not adopted is charged: reality, without a promise."""

from numaferry.model import CpuSet
from numaferry.request import charge, parse_domain

ONLINE = CpuSet.parse("0-7")


def use(cputune="", vcpu="<vcpu>2</vcpu>", rest=""):
    xml = f"""<domain><name>noisy1</name><uuid>u</uuid><memory unit='MiB'>64</memory>{vcpu}
      <cputune>{cputune}</cputune>{rest}</domain>"""
    return charge(parse_domain(xml), ONLINE)


def pin(vcpu, cpus):
    return f"<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>"


def test_one_to_one_pins_block_their_cpus():
    seen = use(pin(0, 2) + pin(1, 5))
    assert (seen.pinned_cpus, seen.floating, seen.managed) == (CpuSet.parse("2,5"), False, False)


def test_a_domain_without_pins_floats_and_is_charged_vcpus_and_memory():
    seen = use()
    assert (seen.pinned_cpus, seen.floating, seen.vcpus, seen.memory_kib) == (CpuSet(), True, 2, 65536)


def test_a_pin_to_all_online_cpus_confines_nothing():
    assert use(pin(0, "0-7") + pin(1, "0-15")).floating


def test_pins_to_ranges_and_a_cpuset_block_every_cpu_of_them():
    assert use(vcpu="<vcpu cpuset='2-5'>2</vcpu>").pinned_cpus == CpuSet.parse("2-5")
    assert not use(vcpu="<vcpu cpuset='2-5'>2</vcpu>").floating


def test_some_vcpus_pinned_is_both_pinned_and_floating():
    seen = use(pin(0, 2))
    assert (seen.pinned_cpus, seen.floating) == (CpuSet.parse("2"), True)


def test_emulator_and_iothreads_block_the_cpus_they_are_pinned_to():
    cputune = pin(0, 2) + pin(1, 3) + "<emulatorpin cpuset='6'/><iothreadpin iothread='1' cpuset='7'/>"
    seen = use(cputune, vcpu="<vcpu>2</vcpu><iothreads>1</iothreads>")
    assert seen.pinned_cpus == CpuSet.parse("2-3,6-7")


def test_pages_are_known_where_memory_is_strict_on_one_node():
    hugepages = "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>"
    assert use(rest=hugepages + "<numatune><memory mode='strict' nodeset='1'/></numatune>").pages == ((1, 2048, 32),)
    assert use(rest="<numatune><memory mode='strict' nodeset='1'/></numatune>").pages == ((1, 4, 16384),)
    assert use(rest="<numatune><memory mode='strict' nodeset='0-1'/></numatune>").pages == ()
    assert use(rest="<numatune><memory mode='preferred' nodeset='1'/></numatune>").pages == ()
