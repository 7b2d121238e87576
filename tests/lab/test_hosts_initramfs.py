"""Archives are read back by busybox's own cpio, not by a second copy of the writer's ideas."""

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.lab import initramfs

BUSYBOX = "/bin/busybox"

pytestmark = pytest.mark.skipif(not Path(BUSYBOX).exists(), reason="busybox-static is not installed")


def unpack(data: bytes, target: Path) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run([BUSYBOX, "cpio", "-idu"], input=data, cwd=target, check=True, capture_output=True)


names = st.text("abcxyz.-_09", min_size=1, max_size=30).filter(lambda name: name not in (".", "..") and name[0] != "-")


@given(contents=st.dictionaries(names, st.binary(max_size=50), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_every_file_comes_back_as_it_went_in(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("unpacked")
    unpack(initramfs.archive(initramfs.file(name, data) for name, data in contents.items()), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == contents


def test_directories_and_execute_bits_are_kept(tmp_path: Path) -> None:
    data = initramfs.archive(
        (
            initramfs.directory("bin"),
            initramfs.file("bin/run", b"#!/bin/sh\n", executable=True),
            initramfs.file("x", b""),
        )
    )
    unpack(data, tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new/bin/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "new/x").stat().st_mode) == 0o644


def test_archives_are_aligned_so_that_another_may_follow() -> None:
    for size in range(8):
        assert len(initramfs.archive([initramfs.file("f", b"x" * size)])) % 4 == 0


def test_equal_entries_give_equal_bytes() -> None:
    entries = [initramfs.directory("dev"), initramfs.character_device("dev/null", 1, 3)]
    assert initramfs.archive(entries) == initramfs.archive(entries)
