"""What two real libvirtds say of a guest that runs on one of them, and of guests that none of them could start."""

import attrs
import pytest

from numaferry.migration.checks import failures, look_at_start
from numaferry.migration.outcome import Outcome
from numaferry.migration.start_checks import check_start
from numaferry.model import Said, XmlKind
from numaferry.request import start_needs
from real_moves import spec_on, start

pytestmark = pytest.mark.lab

#: AVX-512 is not among what QEMU's own translator gives.
TOO_MUCH = "<cpu mode='custom' match='exact'><model fallback='forbid'>Skylake-Server</model></cpu>"


def test_a_guest_that_runs_on_one_host_is_refused_by_none(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    asked = look_at_start(source, uuid)
    assert asked.needs.machine.startswith("pc-q35-"), "the running guest's machine type has its version"
    said = dest.guest_support(asked.needs)
    assert (said.emulator.said, said.machine.said) == (Said.YES, Said.YES)
    assert said.cpu.said in {Said.YES, Said.UNKNOWN}, said.cpu.words
    assert said.cpu == asked.source.cpu, "both hosts have one CPU"
    assert said.secmodels is not None
    assert said.host_cpu.vendor == asked.source.host_cpu.vendor
    checks = check_start(asked, said, "beta", source_qemu=source.facts().hypervisor_version)
    assert not failures(checks), checks
    assert next(check for check in checks if check.name == "machine").outcome is Outcome.OK


def test_what_no_host_here_could_start_is_told_by_the_question_that_it_fails(real_lab, real_hosts):
    source, dest = real_hosts
    uuid = start(real_lab.hosts[0], spec_on(real_lab, real_lab.hosts[0]))
    needs = start_needs(source.domain_xml(uuid, XmlKind.MIGRATABLE))
    machine = dest.guest_support(attrs.evolve(needs, machine="pc-q35-99.9"))
    assert (machine.emulator.said, machine.machine.said) == (Said.YES, Said.NO)
    assert "pc-q35-99.9" in machine.machine.words
    emulator = dest.guest_support(attrs.evolve(needs, emulator="/usr/bin/qemu-of-another-host"))
    assert (emulator.emulator.said, emulator.machine.said) == (Said.NO, Said.UNKNOWN)
    assert "/usr/bin/qemu-of-another-host" in emulator.emulator.words
    cpu = dest.guest_support(attrs.evolve(needs, domain_type="qemu", cpu_mode="custom", cpu_xml=TOO_MUCH)).cpu
    assert cpu.said is Said.NO
    assert "avx512f" in cpu.words
    unknown = dest.guest_support(attrs.evolve(needs, cpu_mode="custom", cpu_xml="<cpu><model>no-such</model></cpu>"))
    assert unknown.cpu.said is Said.UNKNOWN
    volumes = dest.guest_support(attrs.evolve(needs, volumes=(("no-such-pool", "v"),))).volumes
    assert Said.YES not in {answer.said for answer in volumes}
