"""Unpacking a bzImage: the kernel within, which QEMU starts directly (PVH), saving an emulated CPU the unpacking.

The place of the packed kernel is told by the header (the kernel's Documentation/arch/x86/boot, payload_offset).
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECTOR = 512
ELF_MAGIC = b"\x7fELF"


def _gunzip(data: bytes) -> bytes:
    return gzip.decompress(data)


def _unxz(data: bytes) -> bytes:
    # a length follows the stream, which lzma.decompress would take for rubbish
    return lzma.LZMADecompressor().decompress(data)


# by how the packed data begin; others (zstd, lz4) have no unpacker in Python's library
UNPACKERS: Mapping[bytes, Callable[[bytes], bytes]] = {b"\x1f\x8b": _gunzip, b"\xfd7zXZ\0": _unxz}


def unpack(image: bytes) -> bytes | None:
    """Return the ELF kernel packed in a bzImage; None when it can't be had that way: then the image itself serves."""
    if len(image) < SECTOR * 2 or image[0x202:0x206] != b"HdrS":
        return None
    (offset, length) = struct.unpack_from("<II", image, 0x248)
    begin = ((image[0x1F1] or 4) + 1) * SECTOR + offset
    packed = image[begin : begin + length]
    for magic, unpacker in UNPACKERS.items():
        if packed.startswith(magic):
            try:
                kernel = unpacker(packed)
            except (OSError, EOFError, zlib.error, lzma.LZMAError):
                return None
            return kernel if kernel.startswith(ELF_MAGIC) else None
    return None
