"""The topology picture: what it must show is asserted, not its bytes."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from numaferry.cli import numamap
from numaferry.model import EMPTY, CellState, CpuSet, HostState, PageUsage
from numaferry.service.hostmap import HostMap, MapGuest, Tenure


def cell(number, *, cores=2, threads=2, shared=EMPTY, used=32, reserved=0):
    base = number * cores * threads
    cpus = CpuSet.of(range(base, base + cores * threads))
    return CellState(
        id=number,
        cpus=cpus,
        siblings=tuple(CpuSet.of(range(base + core * threads, base + (core + 1) * threads)) for core in range(cores)),
        dedicated=cpus - shared,
        shared=shared & cpus,
        pinned=EMPTY,
        shared_vcpus=0,
        memory_kib=1024 * 1024,
        memory_used_kib=256 * 1024,
        pages=(PageUsage(4, 1000), PageUsage(2048, 128, used, reserved)),
        socket=number,
    )


def guest(name, cpus, tenure=Tenure.CLAIMED, kept=""):
    return MapGuest(f"uuid-{name}", name, CpuSet.parse(cpus), tenure, CpuSet.parse(kept), floating=not cpus)


def host(*guests, cells=2, **options):
    shared = CpuSet.parse("0-1")
    state = HostState("a", tuple(cell(number, shared=shared, **options) for number in range(cells)))
    return HostMap("a", state, tuple(guests), memory_kib=3 * 1024 * 1024)


def lines(text):
    return text.plain.split("\n")


def marks(text):
    """CPU → sign as drawn, from the core boxes."""
    found = {}
    for line in lines(text):
        for part in line.replace("┃", "│").split("│"):
            words = part.split()
            if len(words) == 2 and words[0].isdecimal():
                found[int(words[0])] = words[1]
    return found


def test_every_cpu_is_drawn_once_with_its_owner_its_set_or_free():
    picture = numamap.render(host(guest("db1", "2,6"), guest("noisy1", "5", Tenure.SEEN)))
    assert marks(picture) == {0: "~", 1: "~", 2: "A", 3: "·", 4: "·", 5: "B", 6: "A", 7: "·"}
    assert " A  db1  CPUs 2,6, claimed" in picture.plain
    assert " B  noisy1  CPU 5, seen, not managed" in picture.plain


def test_a_cpu_with_two_guests_names_both():
    picture = numamap.render(host(guest("db1", "2-3"), guest("noisy1", "3-4")))
    assert marks(picture)[3] == "A!B"
    assert "A!B two guests on one CPU" in picture.plain


def test_siblings_kept_free_are_small_letters():
    picture = numamap.render(host(guest("db1", "2", kept="3")))
    assert (marks(picture)[2], marks(picture)[3]) == ("A", "a")
    assert "a kept free beside A" in picture.plain


def test_siblings_stand_in_one_box():
    rows = [line for line in lines(numamap.render(host())) if "│ 2 · │" in line or "│ 3 · │" in line]
    assert len(rows) == 2
    assert rows[0].index("2 ·") == rows[1].index("3 ·")


def test_a_floating_guest_is_in_the_legend_and_owns_nothing():
    picture = numamap.render(host(guest("web", "")))
    assert "web  floats over all CPUs" in picture.plain
    assert set(marks(picture).values()) == {"~", "·"}


def test_incoming_and_outgoing_are_said():
    picture = numamap.render(host(guest("db1", "2", Tenure.INCOMING), guest("old", "3", Tenure.OUTGOING)))
    assert "db1  CPU 2, incoming" in picture.plain
    assert "old  CPU 3, outgoing" in picture.plain


@pytest.mark.parametrize(
    ("used", "reserved", "bar", "words"),
    [
        (0, 0, "░░░░░░░░░░", "0/128"),
        (1, 0, "█░░░░░░░░░", "1/128"),
        (127, 0, "█████████░", "127/128"),
        (128, 0, "██████████", "128/128"),
        (64, 32, "█████▒▒░░░", "64/128 (32 kept)"),
        (130, 0, "██████████", "130/128 over-full"),
    ],
)
def test_a_bar_is_full_only_when_nothing_is_left(used, reserved, bar, words):
    picture = numamap.render(host(used=used, reserved=reserved)).plain
    assert f"2M   {bar} {words}" in picture


def test_before_and_after_stand_side_by_side_with_one_letter_for_one_guest():
    a, b = host(guest("db1", "2,6")), attrs.evolve(host(guest("noisy1", "2,6")), host="b")
    moved = attrs.evolve(b, guests=(guest("db1", "3,7"), guest("noisy1", "2,6")))
    picture = numamap.side_by_side([a, b], [host(), moved], titles=("before", "after"), width=80)
    assert lines(picture)[0].split() == ["before", "after"]
    assert " A  db1  a 2,6 → b 3,7" in picture.plain
    assert " B  noisy1  b 2,6" in picture.plain
    narrow = numamap.side_by_side([a, b], [host(), moved], titles=("before", "after"), width=60)
    assert "after" in [line.strip() for line in lines(narrow)]


shapes = st.builds(
    lambda cells, cores, threads: (cells, cores, threads), st.integers(1, 9), st.integers(1, 40), st.integers(1, 4)
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(40, 160))
def test_no_line_is_wider_than_asked_and_every_cpu_is_there(shape, width):
    cells, cores, threads = shape
    shown = host(guest("db1", "2"), cells=cells, cores=cores, threads=threads)
    picture = numamap.render(shown, width)
    assert max(map(len, lines(picture))) <= width
    assert sorted(marks(picture)) == list(range(cells * cores * threads))


def test_nothing_is_said_by_colour_alone_and_ascii_says_it_all():
    picture = numamap.render(host(guest("db1", "2,6"), guest("noisy1", "6")))
    console = Console(width=80, no_color=True, color_system=None)
    with console.capture() as got:
        console.print(picture)
    assert "A!B" in got.get()
    assert numamap.to_ascii(picture.plain).isascii()


def test_a_cell_without_cpus_or_memory_is_drawn():
    bare = attrs.evolve(cell(1), cpus=EMPTY, siblings=(), dedicated=EMPTY, memory_kib=0, memory_used_kib=0, pages=())
    shown = HostMap("a", HostState("a", (cell(0), bare)), ())
    assert "no CPUs" in numamap.render(shown).plain
