"""The lstopo-like picture in the terminal: boxes machine → cell → core → PU, and who owns each CPU.

Pure: from `HostMap` values to rich `Text`, at a given width. Everything that colour says, a letter or sign says too;
the colours are those of Okabe and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

import itertools
import string
from typing import TYPE_CHECKING

import attrs
from rich.text import Text

from numaferry.service.hostmap import CpuRole, HostMap, MapGuest, Tenure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numaferry.model import CellState, CpuSet, PageUsage

_PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
_SIGNS = {CpuRole.DEDICATED: "·", CpuRole.SHARED: "~", CpuRole.HOST: "-"}
_SIGN_STYLES = {CpuRole.DEDICATED: "bold", CpuRole.SHARED: "dim", CpuRole.HOST: "dim"}
_LEGEND = ("· free, dedicated", "~ shared set", "- kept for the host")
#: Below this a cell's box has no room for a bar and its numbers.
_MIN_CELL_WIDTH = 34
_BAR_WIDTH = 10
_GIB_KIB = 1024 * 1024
_ASCII = str.maketrans("╭╮╰╯┌┐└┘├┤┬┴┼─│·█▒░→", "++++" + "+++++++++" + "-|.#=.>")

Block = list[Text]


@attrs.frozen
class _Look:
    """How guests are lettered and coloured, the same in every picture drawn together."""

    letters: Mapping[str, str]
    styles: Mapping[str, str]


def _names() -> Iterator[str]:
    """A, B, ... Z, AA, AB, ..."""
    for size in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=size):
            yield "".join(letters)


def _look(maps: Sequence[HostMap]) -> _Look:
    """Letter every guest that is on some CPU, in order of name over all pictures."""
    placed = {
        (guest.name, guest.uuid)
        for shown in maps
        for guest in shown.guests
        if guest.cpus or guest.kept_free or not guest.floating
    }
    letters = dict(zip((uuid for _, uuid in sorted(placed)), _names(), strict=False))
    styles = {uuid: _PALETTE[number % len(_PALETTE)] for number, uuid in enumerate(letters)}
    return _Look(letters, styles)


def render(shown: HostMap, width: int = 80) -> Text:
    """Draw one host with its legend, no line longer than `width` columns (at least 40)."""
    look = _look([shown])
    return _join([*_machine(shown, width, look), *_legend([shown], look, width)])


def side_by_side(
    left: Sequence[HostMap], right: Sequence[HostMap], *, titles: tuple[str, str], width: int = 80
) -> Text:
    """Draw two states of the same hosts beside each other (before and after a move), with one legend.

    A guest has the same letter and colour on both sides. Under 76 columns the sides are drawn one after the other.
    """
    look = _look([*left, *right])
    beside = width >= 76
    half = (width - 2) // 2 if beside else width
    columns = [
        [Text(title, style="bold"), *(line for one in maps for line in _machine(one, half, look))]
        for title, maps in zip(titles, (left, right), strict=True)
    ]
    body = _beside(columns, gap=width - 2 * half) if beside else [line for column in columns for line in column]
    return _join([*body, *_legend([*left, *right], look, width, moves=True)])


def to_ascii(text: str) -> str:
    """Return the picture for a terminal that has no box-drawing characters."""
    return text.translate(_ASCII)


def _machine(shown: HostMap, width: int, look: _Look) -> Block:
    """Draw the outermost box: the host."""
    cells = shown.state.cells
    cpus = sum(len(cell.cpus) for cell in cells)
    title = f"{shown.host}: {_count(len(cells), 'cell')}, {_count(cpus, 'CPU')}"
    if shown.memory_kib:
        title += f", {_size(shown.memory_kib)}"
    if not shown.confirmed:
        title += ", sets not confirmed"
    inner = width - 4
    columns = max(1, min(len(cells), 4, (inner + 1) // (_MIN_CELL_WIDTH + 1)))
    cell_width = (inner - (columns - 1)) // columns
    rows: Block = []
    for start in range(0, len(cells), columns):
        blocks = [_cell(shown, cell, cell_width, look) for cell in cells[start : start + columns]]
        rows += _beside(blocks, gap=1)
    if shown.note:
        rows.append(Text(shown.note, style="italic"))
    return _box(rows, title, width)


def _cell(shown: HostMap, cell: CellState, width: int, look: _Look) -> Block:
    """Draw a NUMA cell: its cores, its memory and its page pools."""
    lines = [*_cores(shown, cell, width - 4, look), _memory_bar(cell)]
    lines += [_page_bar(pool) for pool in cell.pages if pool.size_kib >= 2048 and (pool.total or pool.used)]
    return _box(lines, f"cell {cell.id}, socket {cell.socket}" if cell.socket >= 0 else f"cell {cell.id}", width)


def _cores(shown: HostMap, cell: CellState, width: int, look: _Look) -> Block:
    """Draw the cores in rows of touching boxes; the lines of a box are the core's hardware threads."""
    if not cell.cpus:
        return [Text("no CPUs")]
    cores = sorted(cell.siblings, key=lambda core: core.first() if core else -1)
    id_width = max(len(str(cpu)) for one in shown.state.cells for cpu in one.cpus) if cell.cpus else 1
    mark_width = max((len(_mark(shown, cpu, look)[0]) for one in shown.state.cells for cpu in one.cpus), default=1)
    pu_width = id_width + 1 + mark_width
    per_row = max(1, (width - 1) // (pu_width + 3))
    lines: Block = []
    for start in range(0, len(cores), per_row):
        row = cores[start : start + per_row]
        rule = ["─" * (pu_width + 2)] * len(row)
        lines.append(Text("┌" + "┬".join(rule) + "┐"))
        depth = max(len(core) for core in row)
        columns = [_threads(shown, core, depth, (id_width, mark_width), look) for core in row]
        for parts in zip(*columns, strict=True):
            line = Text("│")
            for part in parts:
                line.append(" ").append_text(part).append(" │")
            lines.append(line)
        lines.append(Text("└" + "┴".join(rule) + "┘"))
    return lines


def _threads(shown: HostMap, core: CpuSet, depth: int, widths: tuple[int, int], look: _Look) -> list[Text]:
    """Return one text per hardware thread of a core, filled up to `depth` lines."""
    id_width, mark_width = widths
    parts = []
    for cpu in core:
        mark, style = _mark(shown, cpu, look)
        parts.append(Text(f"{cpu:>{id_width}} ").append(f"{mark:<{mark_width}}", style=style))
    return parts + [Text(" " * (id_width + 1 + mark_width))] * (depth - len(parts))


def _mark(shown: HostMap, cpu: int, look: _Look) -> tuple[str, str]:
    """Return the sign for who owns a CPU, and its style; `A!B` where two guests are on it."""
    owners = shown.owners(cpu)
    if len(owners) > 1:
        first, second = (look.letters[guest.uuid] for guest in owners[:2])
        return f"{first}!{second}" + ("+" if len(owners) > 2 else ""), "bold reverse"
    if owners:
        return look.letters[owners[0].uuid], f"bold {look.styles[owners[0].uuid]}"
    for guest in shown.guests:
        if cpu in guest.kept_free:
            return look.letters[guest.uuid].lower(), look.styles[guest.uuid]
    role = shown.role(cpu)
    return _SIGNS[role], _SIGN_STYLES[role]


def _memory_bar(cell: CellState) -> Text:
    """Return the bar of a cell's ordinary memory, as far as it is for guests."""
    words = f"{_size(cell.memory_used_kib)}/{_size(cell.memory_kib)}"
    return _bar("4K", cell.memory_used_kib, 0, cell.memory_kib, words)


def _size(memory_kib: int) -> str:
    """Return `512M` or `1.5G`."""
    return f"{memory_kib / _GIB_KIB:.1f}G" if memory_kib >= _GIB_KIB else f"{memory_kib // 1024}M"


def _page_bar(pool: PageUsage) -> Text:
    """Return the bar of one pool of huge pages."""
    size = f"{pool.size_kib // _GIB_KIB}G" if pool.size_kib >= _GIB_KIB else f"{pool.size_kib // 1024}M"
    words = f"{pool.used}/{pool.total}" + (f" ({pool.reserved} kept)" if pool.reserved else "")
    return _bar(size, pool.used, pool.reserved, pool.total, words)


def _bar(label: str, used: int, reserved: int, total: int, words: str) -> Text:
    """Return `label ███▒░░░ words`; a bar is full only when nothing is left, and empty only when nothing is used."""
    over = used + reserved > total
    filled = _share(used, total)
    kept = min(_BAR_WIDTH - filled, _share(reserved, total))
    line = Text(f"{label:<4} ")
    line.append("█" * filled, style="#56B4E9").append("▒" * kept).append("░" * (_BAR_WIDTH - filled - kept), "dim")
    return line.append(f" {words}").append(" over-full", style="bold reverse") if over else line.append(f" {words}")


def _share(part: int, whole: int) -> int:
    """Return how many of a bar's blocks stand for part of whole."""
    if part <= 0 or whole <= 0:
        return 0 if part <= 0 else _BAR_WIDTH
    if part >= whole:
        return _BAR_WIDTH
    return min(_BAR_WIDTH - 1, max(1, round(_BAR_WIDTH * part / whole)))


def _legend(maps: Sequence[HostMap], look: _Look, width: int, *, moves: bool = False) -> Block:
    """Say which letter is whom, and where."""
    lines: Block = []
    by_uuid: dict[str, list[tuple[HostMap, MapGuest]]] = {}
    for shown in maps:
        for guest in shown.guests:
            by_uuid.setdefault(guest.uuid, []).append((shown, guest))
    for uuid, places in sorted(by_uuid.items(), key=lambda item: (item[1][0][1].name, item[0])):
        letter = look.letters.get(uuid, "≈")
        text = Text(f" {letter:<2} ", style=f"bold {look.styles[uuid]}" if uuid in look.styles else "")
        words = _where(places) if moves else _what(places[0][1])
        text.append(f"{places[0][1].name}  ", style="bold").append(words, style="")
        lines.extend(_wrapped(text, width))
    keys = list(_LEGEND)
    if any(guest.kept_free for shown in maps for guest in shown.guests):
        keys.append("a kept free beside A")
    if any(len(shown.owners(cpu)) > 1 for shown in maps for cell in shown.state.cells for cpu in cell.cpus):
        keys.append("A!B two guests on one CPU")
    return [*lines, *(Text(line, style="dim") for line in _in_lines(keys, width))]


def _in_lines(words: Iterable[str], width: int) -> list[str]:
    """Put words beside each other, none broken, no line longer than `width` if it can be."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}   {word}" if lines[-1] else f" {word}"
        if len(longer) > width and lines[-1]:
            lines.append(f" {word}")
        else:
            lines[-1] = longer
    return lines


def _what(guest: MapGuest) -> str:
    """Return what a legend says of a guest."""
    if guest.floating and not guest.cpus:
        return f"floats over all CPUs, {guest.tenure}"
    word = "CPU" if len(guest.cpus) == 1 else "CPUs"
    return f"{word} {guest.cpus}, {guest.tenure}" if guest.cpus else str(guest.tenure)


def _where(places: Iterable[tuple[HostMap, MapGuest]]) -> str:
    """Return where a guest is in pictures that are drawn together: `host-a 4-7 → host-b 0-3`."""
    said = dict.fromkeys(
        f"{shown.host} {guest.cpus or 'floating'}"
        + (f" ({guest.tenure})" if guest.tenure is not Tenure.CLAIMED else "")
        for shown, guest in places
    )
    return " → ".join(said)


def _wrapped(text: Text, width: int) -> Block:
    """Break a line at spaces so that none is longer than `width`."""
    lines: Block = []
    rest = text
    while len(rest) > width:
        at = rest.plain.rfind(" ", 8, width)
        head, tail = rest.divide([at if at > 0 else width])[:2]
        lines.append(head)
        rest = Text("    ").append_text(tail[1:] if tail.plain.startswith(" ") else tail)
    return [*lines, rest]


def _box(lines: Block, title: str, width: int) -> Block:
    """Put a frame with a title around lines; longer lines are cut, shorter ones filled."""
    inner = width - 4
    label = f" {title} " if len(title) + 3 <= width - 2 else f" {title[: width - 6]}… "
    framed = [Text("╭─").append(label, style="bold").append("─" * (width - 3 - len(label))).append("╮")]
    framed.extend(Text("│ ").append_text(_fitted(line, inner)).append(" │") for line in lines)
    return [*framed, Text("╰" + "─" * (width - 2) + "╯")]


def _fitted(line: Text, width: int) -> Text:
    """Return the line at exactly this width."""
    copy = line.copy()
    copy.truncate(width, overflow="ellipsis", pad=True)
    return copy


def _beside(blocks: Sequence[Block], *, gap: int) -> Block:
    """Put blocks side by side; each keeps its own width."""
    widths = [max((len(line) for line in block), default=0) for block in blocks]
    lines = []
    for parts in itertools.zip_longest(*blocks):
        line = Text()
        for number, (part, width) in enumerate(zip(parts, widths, strict=True)):
            line.append(" " * (gap if number else 0)).append_text(_fitted(part or Text(""), width))
        lines.append(line)
    return lines


def _join(lines: Block) -> Text:
    """Return the lines as one text."""
    return Text("\n").join(lines)


def _count(number: int, noun: str) -> str:
    """Return `1 cell`, `2 cells`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
