"""A host's QEMU is what the notation says, and what a machine lacks is told before anything starts."""

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numaferry.errors import EnvironmentLacking, InvalidInput
from numaferry.lab import hosts
from numaferry.lab.machine import Machine, command_line
from numaferry.lab.notation import parse

MACHINE = Machine(
    name="alpha",
    uuid="15efe75c-8a9b-5a33-a1b2-1e37fd6b2d4c",
    spec=parse("2 cells x 2 cores x 2 threads, 1536M, 2M:128"),
    accelerator="tcg",
    kernel=Path("/kernel"),
    initramfs=Path("/initramfs"),
    share=Path("/share"),
    management_tap="m1",
    management_mac="52:54:00:77:00:01",
    data_tap="d1",
    data_mac="52:54:00:77:01:01",
)


@settings(deadline=None)
@given(cells=st.integers(1, 8), cores=st.integers(1, 4), threads=st.integers(1, 2))
def test_every_cpu_is_in_one_cell_and_all_memory_too(cells: int, cores: int, threads: int) -> None:
    spec = parse(f"{cells} cells x {cores} cores x {threads} threads, 1G")
    words = command_line(attrs.evolve(MACHINE, spec=spec))
    line = " ".join(words)
    cpus = [int(cpu) for node in re.findall(r"-numa node,(\S+)", line) for cpu in re.findall(r"cpus=(\d+)", node)]
    assert cpus == list(range(cells * cores * threads))
    assert f"-smp {len(cpus)},sockets={cells},cores={cores},threads={threads}" in line
    sizes_kib = [int(size) for size in re.findall(r"memory-backend-ram,id=cell\d,size=(\d+)K", line)]
    assert sum(sizes_kib) >> 10 == int(words[words.index("-m") + 1].removesuffix("M"))
    assert len(re.findall("-numa dist,", line)) == cells * cells


def test_a_comma_in_the_labs_path_is_no_end_of_an_option() -> None:
    words = command_line(attrs.evolve(MACHINE, share=Path("/a,b/share")))
    assert "local,id=share,path=/a,,b/share,security_model=none" in words


def test_emulated_cpus_have_threads_and_nested_virtualization() -> None:
    words = command_line(MACHINE)
    assert {"family=23", "topoext=on"} <= set(words[words.index("-cpu") + 1].split(","))


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let this machine pass all other checks, whatever it is."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(hosts, "_available_mib", lambda: 100_000)
    monkeypatch.setattr("numaferry.lab.hosts.shutil.which", lambda tool, path=None: tool)
    monkeypatch.setattr(hosts, "run", lambda words: "tcg\nkvm\n")
    monkeypatch.setattr(hosts, "busybox", lambda: Path("/bin/busybox"))
    monkeypatch.setattr("numaferry.lab.kernel.check", lambda: None)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    return monkeypatch


def test_a_machine_that_has_all_passes(able: pytest.MonkeyPatch) -> None:
    hosts.check(hosts.DEFAULT_NOTATIONS)


def test_one_host_is_no_lab(able: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="1 hosts asked for; 2 to 8"):
        hosts.check(hosts.DEFAULT_NOTATIONS[:1])


def test_without_root_nothing_is_begun(able: pytest.MonkeyPatch) -> None:
    able.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(EnvironmentLacking, match="only root may"):
        hosts.check(hosts.DEFAULT_NOTATIONS)


def test_too_little_memory_is_told_with_both_numbers(able: pytest.MonkeyPatch) -> None:
    able.setattr(hosts, "_available_mib", lambda: 4000)
    with pytest.raises(EnvironmentLacking, match="7544 MiB of memory, 4000 MiB are available") as caught:
        hosts.check(hosts.DEFAULT_NOTATIONS)
    assert "LAB=namespaces" in caught.value.hint


@pytest.mark.parametrize("lacking", ["qemu-system-x86_64", "libvirtd", "virsh"])
def test_a_tool_that_is_not_installed_is_named(able: pytest.MonkeyPatch, lacking: str) -> None:
    able.setattr("numaferry.lab.hosts.shutil.which", lambda tool, path=None: None if tool == lacking else tool)
    with pytest.raises(EnvironmentLacking, match=f"{lacking} is not installed"):
        hosts.check(hosts.DEFAULT_NOTATIONS)


def test_a_machine_with_neither_kvm_nor_emulation_is_told_so(able: pytest.MonkeyPatch) -> None:
    able.setattr(hosts, "run", lambda words: "kvm\n")
    able.setattr(Path, "exists", lambda path: str(path) != "/dev/kvm")
    with pytest.raises(EnvironmentLacking, match="no TCG"):
        hosts.check(hosts.DEFAULT_NOTATIONS)
