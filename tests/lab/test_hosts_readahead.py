"""What a host reads ahead is what ldd says its programs need."""

from pathlib import Path

from numaferry.lab.readahead import libraries

LISTING = """\
\tlinux-vdso.so.1 (0x00007ffc5a7f2000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0b4b1c5000)
\tlibmissing.so.2 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0b4c9d0000)
"""


def test_libraries_are_those_with_a_path() -> None:
    assert libraries(LISTING) == [Path("/lib/x86_64-linux-gnu/libz.so.1"), Path("/lib64/ld-linux-x86-64.so.2")]


def test_a_static_program_needs_none() -> None:
    assert libraries("\tnot a dynamic executable\n") == []
