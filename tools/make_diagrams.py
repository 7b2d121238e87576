"""Write what documents say of the code's tables from those tables: states, steps, recovery, errors, checks.

A block stands between ``<!-- generated:NAME -->`` and ``<!-- end:NAME -->``. Without arguments every block is written
anew; ``--check`` writes nothing and ends with 1 where a document is behind the code (``tests/docs/`` runs that).
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from numaferry import errors
from numaferry.ledger.triggers import REFUSALS
from numaferry.migration.devices import RULES
from numaferry.migration.evidence import DestWord, Phase
from numaferry.migration.known_bad import KNOWN_BAD
from numaferry.migration.recovery import TABLES
from numaferry.migration.start_errors import START_ERRORS
from numaferry.migration.states import TRANSITIONS, Event
from numaferry.migration.steps import STEPS
from numaferry.model import IN_PROGRESS, MigrationStatus, version_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def states() -> str:
    """Return the state diagram of a migration, and the same as a table of status and event."""
    names = {status: status.replace("-", "_") for status in MigrationStatus}
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{status}" as {name}' for status, name in names.items() if status != name]
    lines.append(f"    [*] --> {names[MigrationStatus.ACCEPTED]}: claim")
    for status, ways in TRANSITIONS.items():
        lines += [f"    {names[status]} --> {names[to]}: {event}" for event, to in ways.items()]
    lines += [f"    {names[status]} --> [*]" for status, ways in TRANSITIONS.items() if not ways]
    lines.append("```")
    rows = [
        [f"`{status}`", "yes" if status in IN_PROGRESS else "no", *(ways.get(event, "") for event in Event)]
        for status, ways in TRANSITIONS.items()
    ]
    return "\n".join(lines) + "\n\n" + table(["status", "in progress", *map(str, Event)], rows)


def steps() -> str:
    """Return the steps of a migration in order."""
    return table(
        ["step", "status", "undo", "why it stands here"],
        [
            [
                f"`{step.name}`" + (" (point of no return)" if step.point_of_no_return else ""),
                step.status,
                f"`{step.undo.__name__}`" if step.undo else "",
                step.why,
            ]
            for step in STEPS
        ],
    )


def decisions(phase: Phase) -> str:
    """Return what recovery does in one phase: a row per word of the source, a column per word of the destination."""
    return table(
        ["source \\ destination", *map(str, DestWord)],
        [[f"**{source}**", *map(str, row)] for source, row in TABLES[phase].items()],
    )


def recovery() -> str:
    """Return the tables of all phases."""
    return "\n\n".join(f"### {phase.value.capitalize()}\n\n{decisions(phase)}" for phase in Phase)


def error_classes() -> tuple[type[errors.NumaferryError], ...]:
    """Return the classes of errors.py, in the order in which they stand there."""
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.NumaferryError)]
    return tuple(sorted(found, key=lambda one: inspect.getsourcelines(one)[1]))


def error_table() -> str:
    """Return every class of errors.py: code, exit code, whether the same call may work later, and what it means."""
    return table(
        ["code", "exit code", "retryable", "class", "meaning"],
        [
            [
                f"`{one.code}`",
                str(one.exit_code),
                "yes" if one.retryable else "no",
                f"`{one.__name__}`",
                (inspect.getdoc(one) or "").split("\n\n", maxsplit=1)[0].replace("\n", " "),
            ]
            for one in error_classes()
        ],
    )


def refusals() -> str:
    """Return what the ledger's triggers refuse."""
    return table(["code", "meaning"], [[f"`{code}`", words] for code, words in REFUSALS.items()])


def device_rules() -> str:
    """Return what of a guest's XML is looked for, and what follows."""
    return table(
        ["check", "looked for", "outcome", "why"],
        [[f"`{rule.name}`", f"`{rule.xpath}`", f"`{rule.outcome}`", rule.why.format(n="N")] for rule in RULES],
    )


def known_bad() -> str:
    """Return the versions of libvirt that are known to go wrong."""
    return table(
        ["libvirt", "on", "guests", "what happens", "source"],
        [
            [
                f"{version_text(bad.first)} to before {version_text(bad.mended)}",
                bad.side,
                bad.guests,
                bad.words,
                bad.source,
            ]
            for bad in KNOWN_BAD
        ],
    )


def start_errors() -> str:
    """Return the reason codes of a job that failed to start."""
    return table(
        ["code", "libvirt's words", "what to do"],
        [[f"`{row.code}`", f"`{row.words}`", row.hint] for row in START_ERRORS],
    )


#: Document → its blocks.
BLOCKS: Final[dict[str, dict[str, Callable[[], str]]]] = {
    "ARCHITECTURE.md": {"states": states, "steps": steps, "recovery-moving": lambda: decisions(Phase.MOVING)},
    "docs/checks.md": {"device-rules": device_rules, "known-bad": known_bad, "start-errors": start_errors},
    "docs/recovery.md": {"recovery": recovery},
    "docs/errors.md": {"errors": error_table, "refusals": refusals},
}


def updated(text: str, blocks: dict[str, Callable[[], str]], where: str) -> str:
    """Return a document with its blocks written anew; raises ValueError where it lacks the marks of one."""
    for name, make in blocks.items():
        begin, end = f"<!-- generated:{name} -->", f"<!-- end:{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        made = f"{begin}\n{make()}\n{end}"
        found = pattern.findall(text)
        if len(found) != 1:
            raise ValueError(f"{where} has {len(found)} blocks between {begin} and {end}, expected 1")
        text = text.replace(found[0], made)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the documents; return the exit code."""
    parser = argparse.ArgumentParser(description="write generated parts of the documents")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a document is behind")
    check = parser.parse_args(arguments).check
    behind = []
    for name, blocks in BLOCKS.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        new = updated(text, blocks, name)
        if new == text:
            continue
        behind.append(name)
        if not check:
            path.write_text(new, encoding="utf-8")
    for name in behind:
        sys.stderr.write(f"{name} {'is behind the code: run tools/make_diagrams.py' if check else 'written anew'}\n")
    return 1 if check and behind else 0


if __name__ == "__main__":
    sys.exit(main())
