"""Which topologies a lab host can be made from; the notation itself is tested with the model."""

import pytest

from numaferry.errors import InvalidInput
from numaferry.lab.notation import parse


def test_a_host_is_made_as_written() -> None:
    spec = parse("2 cells x 2 cores x 2 threads, 1536M, 2M:128")
    assert spec.memory_mib == 3072
    assert (spec.cores_per_cell, spec.threads_per_core) == (2, 2)
    assert spec.pages_2m == (128, 128)
    assert [str(cell.cpus) for cell in spec.topology.cells] == ["0-3", "4-7"]


def test_blanks_do_not_make_another_host() -> None:
    assert parse("2 cells  x 4 cores,  1G").notation == parse("2 cells x 4 cores, 1G").notation


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9 cells x 1 cores, 1G", "9 cells; 8 is the most"),
        ("1 cells x 2 cores x 4 threads, 2G", "4 threads per core"),
        ("8 cells x 16 cores, 1G", "128 CPUs; 64 is the most"),
        ("2 cells x 2 cores, 2G, 1G:1", "pages of 1048576 KiB"),
        ("2 cells x 2 cores, 1G, 2M:300", "600 of a cell's 1024 MiB"),
        ("2 cells x 2 cores, 256M", "512 MiB of memory; 1024 MiB is the least"),
        ("2 boxes x 2 cores, 1G", "2 boxes"),
    ],
)
def test_what_cannot_be_made_is_refused_with_its_number(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        parse(text)
    assert caught.value.hint
