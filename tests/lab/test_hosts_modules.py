"""The order of kernel modules, on a small tree made here in the form of /lib/modules/VERSION."""

import lzma
from pathlib import Path

import pytest

from numaferry.errors import EnvironmentLacking
from numaferry.lab.modules import ordered


def module(*needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    (kernel / "base.ko").write_bytes(module())
    (kernel / "ring-buf.ko.xz").write_bytes(lzma.compress(module("base")))
    (kernel / "top.ko").write_bytes(module("ring_buf", "base"))
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio-pci.ko\n", encoding="utf-8")
    return tmp_path


def test_each_module_comes_after_what_it_needs(tree: Path) -> None:
    assert list(ordered(["top"], tree)) == ["base", "ring_buf", "top"]


def test_packed_modules_are_unpacked(tree: Path) -> None:
    assert ordered(["ring-buf"], tree)["ring_buf"] == module("base")


def test_what_is_compiled_in_is_left_out(tree: Path) -> None:
    assert list(ordered(["virtio_pci"], tree)) == []


def test_a_module_the_kernel_lacks_is_named(tree: Path) -> None:
    with pytest.raises(EnvironmentLacking, match="no module 9p"):
        ordered(["9p"], tree)
