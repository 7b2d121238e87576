"""The tiny guest under emulation, without libvirt: it counts, finds memory changed behind its back, and obeys."""

from __future__ import annotations

import mmap
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from numaferry.lab.guests import SerialWatch, build, guest_image
from numaferry.lab.guests.image import content_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.lab

MEMORY_MIB = 16
ARENA_FIRST = 0x400000


@frozen
class Running:
    """A tiny guest under QEMU: its serial line, its memory as this process sees it, and QEMU's monitor."""

    watch: SerialWatch
    memory: mmap.mmap
    monitor: Path

    def command(self, text: str) -> None:
        """Give a command to QEMU's human monitor and wait for its prompt."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(self.monitor))
            link.recv(4096)
            link.sendall(text.encode() + b"\n")
            time.sleep(0.1)
            link.recv(4096)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return the function that starts a guest with a command line and more QEMU words; it is ended afterwards."""
    started = []

    def starting(command_line: str = "", *words: str) -> Running:
        memory, serial, monitor = tmp_path / "memory", tmp_path / "serial", tmp_path / "monitor"
        memory.write_bytes(b"")
        watch = SerialWatch.of_new(serial)
        backend = f"memory-backend-file,id=m0,size={MEMORY_MIB}M,mem-path={memory},share=on"
        argv = ["qemu-system-x86_64", "-machine", "q35,memory-backend=m0", "-accel", "tcg", "-m", str(MEMORY_MIB)]
        argv += ["-object", backend, "-smp", "2", "-display", "none", "-nodefaults", "-no-reboot"]
        argv += ["-kernel", str(guest_image("tiny").kernel), "-append", command_line, "-serial", f"file:{serial}"]
        argv += ["-monitor", f"unix:{monitor},server=on,wait=off", *words]
        started.append(subprocess.Popen(argv))
        watch.until_count(2, timeout_s=30)
        with memory.open("r+b") as file:
            return Running(watch=watch, memory=mmap.mmap(file.fileno(), 0), monitor=monitor)

    yield starting
    for process in started:
        process.kill()
        process.wait()


def test_it_counts_without_a_break_while_it_dirties(start: Callable[..., Running]) -> None:
    guest = start("dirty=3")
    report = guest.watch.until_more(30)
    assert report.intact
    assert report.first == 1


def test_it_finds_a_changed_word(start: Callable[..., Running]) -> None:
    guest = start()
    assert guest.watch.until_more(5).intact
    at = ARENA_FIRST + 5 * 4096 + 512
    guest.memory[at : at + 4] = b"\0\0\0\0"
    report = guest.watch.until(lambda told: told.corrupt, what="corruption", timeout_s=20)
    assert report.corruptions[0].startswith(f"CORRUPT at={at:#010x} got=0x00000000")


def test_it_finds_a_page_whose_last_write_was_lost(start: Callable[..., Running]) -> None:
    """What a migration with a hole in its dirty bitmap would do: the page is of the guest's own past."""
    guest = start("dirty=1")
    at = ARENA_FIRST + 3 * 4096
    old = guest.memory[at : at + 4096]
    deadline = time.monotonic() + 20
    while guest.memory[at : at + 4096] == old:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    guest.memory[at : at + 4096] = old
    report = guest.watch.until(lambda told: told.corrupt, what="corruption", timeout_s=20)
    assert report.corruptions[0].startswith(f"CORRUPT at={at + 4:#010x}")


@pytest.mark.parametrize(("key", "mib"), [("4", 8), ("1", 1)])
def test_a_key_sets_how_much_it_dirties(start: Callable[..., Running], key: str, mib: int) -> None:
    guest = start("dirty=2")
    guest.command(f"sendkey {key}")
    report = guest.watch.until(lambda told: told.dirty_mib is not None, what="new rate", timeout_s=20)
    assert report.dirty_mib == mib
    assert guest.watch.until_more(10).intact


def test_dirtying_can_be_stopped(start: Callable[..., Running]) -> None:
    guest = start("dirty=1")
    guest.command("sendkey 0")
    guest.watch.until(lambda told: told.dirty_mib == 0, what="no dirtying", timeout_s=20)
    guest.watch.until_more(2)
    marks = guest.memory[ARENA_FIRST + 4 :: 4096]
    guest.watch.until_more(10)
    assert guest.memory[ARENA_FIRST + 4 :: 4096] == marks


@pytest.mark.parametrize("model", ["virtio-net-pci", "e1000", "e1000e"])
def test_it_broadcasts_on_every_kind_of_nic(start: Callable[..., Running], model: str, tmp_path: Path) -> None:
    capture, mac = tmp_path / "frames", "52:54:00:aa:bb:01"
    bus = [] if model == "e1000" else ["-device", "pcie-root-port,id=rp1"]
    device = f"{model},netdev=n,mac={mac}" + (",bus=rp1" if bus else "")
    guest = start(
        "",
        *("-netdev", "user,id=n,restrict=on", *bus, "-device", device),
        *("-object", f"filter-dump,id=f,netdev=n,file={capture}"),
    )
    last = guest.watch.until_more(25).last or 0
    frames = list(captured(capture.read_bytes()))
    ours = [frame for frame in frames if frame[6:12] == bytes.fromhex(mac.replace(":", ""))]
    counters = [struct.unpack_from(">I", frame, 23)[0] for frame in ours if frame[12:14] == b"\x88\xb5"]
    assert counters[:20] == list(range(1, 21))
    assert counters[-1] <= last + 1


def captured(data: bytes) -> Iterator[bytes]:
    """Yield the whole packets of a capture file (libpcap's format)."""
    at = 24
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        if at + 16 + length > len(data):
            return
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def test_what_was_built_is_built_again_only_when_its_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = guest_image("tiny").kernel
    made_at = first.stat().st_mtime_ns
    assert guest_image("tiny").kernel.stat().st_mtime_ns == made_at
    monkeypatch.setattr(build, "TINY_FLAGS", (*build.TINY_FLAGS, "-DOTHER"))
    other = guest_image("tiny").kernel
    assert other != first
    assert sorted(path.name for path in first.parent.iterdir()) == sorted({first.name, other.name})


def test_contents_that_are_cut_differently_have_different_names() -> None:
    keys = [content_key(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"])]
    assert len(set(keys)) == 3
