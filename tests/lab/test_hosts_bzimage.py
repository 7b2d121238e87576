"""Unpacking a kernel image, made here by the boot protocol's header."""

import gzip
import lzma
import struct

import pytest

from numaferry.lab.bzimage import unpack

ELF = b"\x7fELF" + bytes(range(256)) * 8


def image(packed: bytes, setup_sectors: int = 3) -> bytes:
    header = bytearray((setup_sectors + 1) * 512)
    header[0x1F1] = setup_sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 64, len(packed))
    return bytes(header) + b"\x90" * 64 + packed + b"\x90" * 100


@pytest.mark.parametrize(
    "packed", [gzip.compress(ELF), lzma.compress(ELF), lzma.compress(ELF) + struct.pack("<I", len(ELF))]
)
@pytest.mark.parametrize("setup_sectors", [3, 27])
def test_the_kernel_within_comes_out(packed: bytes, setup_sectors: int) -> None:
    assert unpack(image(packed, setup_sectors)) == ELF


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MZ" * 2000,
        image(b"\x28\xb5\x2f\xfd" + b"zstd" * 50),
        image(gzip.compress(ELF)[:40]),
        image(gzip.compress(b"no ELF")),
        image(b"\xfd7zXZ\0" + b"rubbish" * 10),
    ],
    ids=["empty", "no header", "other packing", "cut short", "no kernel", "rubbish"],
)
def test_what_cannot_be_unpacked_is_left_as_it_is(data: bytes) -> None:
    assert unpack(data) is None
