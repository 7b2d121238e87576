"""The demo's reader of /proc: masks of every thread, pages per cell; what is missing is missing."""

from numaferry.demo.evidence import parse
from numaferry.model import CpuSet

OUTPUT = """\
thread db1 812 812 3,7 qemu-system-x86
thread db1 812 830 6 CPU 0/KVM
thread db1 812 831 2 CPU 1/KVM
map db1 7f6a00000000 bind:1 file=/dev/hugepages/libvirt/qemu/1-db1/x huge dirty=16 N1=16 kernelpagesize_kB=2048
map db1 7f6a10000000 bind:0 file=/dev/hugepages/libvirt/qemu/1-db1/y huge dirty=12 N0=10 N1=2 kernelpagesize_kB=2048
absent noisy1
"""


def test_threads_are_read_with_their_masks_and_vcpu_numbers():
    seen = parse(OUTPUT)["db1"]
    assert [(thread.vcpu, str(thread.cpus)) for thread in seen.threads] == [(None, "3,7"), (0, "6"), (1, "2")]
    assert seen.vcpu_cpus == CpuSet.parse("2,6")
    assert seen.all_cpus == CpuSet.parse("2-3,6-7")


def test_huge_pages_are_summed_per_cell_over_all_mappings():
    assert parse(OUTPUT)["db1"].huge_kib_by_cell == ((0, 20480), (1, 36864))


def test_a_guest_that_is_not_there_is_not_invented():
    assert "noisy1" not in parse(OUTPUT)
