"""Write docs/faults.md from what the tests of tests/faults/ found (build/faults/*.json), which they write as they run.

Ends with 1, and writes nothing, where a fault was not met as its test expects.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from faults.controller import Fault  # noqa: E402  (it is found by the line above)
from faults.matrix import NOT_AS_EXPECTED  # noqa: E402
from numaferry.migration.steps import STEPS  # noqa: E402

PAGE: Final = ROOT / "docs" / "faults.md"
FOUND: Final = ROOT / "build" / "faults"

HEAD: Final = """\
# Faults on real hosts
What came of every fault that the tests of `tests/faults/` cause on real libvirtds, with real QEMU guests and
controllers that are processes of their own, really killed (`kill -9`) and stopped (`SIGSTOP`). Written by
`tools/make_faults.py` from what a run of the tests found.

A controller with one fault in it moves one guest, which goes to and fro between the tests. Where the fault strikes is
told by the ledger and asserted; then, where the first controller is dead, another one takes over (`recover`), and where
it was only stopped, as soon as the lease and the longest call are over. In each case, whatever is in the table, this
holds in the end (`tests/faults/stage.py`, `Stage.settled`):

* the guest runs on exactly one host, its counter is unbroken, with one start and no corrupt page; there is one QEMU and
  one macvtap, by the kernels' word;
* one claim, there; CPUs, links and capacity add up; no migration is in progress, and no job is left;
* the kernel's masks of its vCPUs are the claim's, its mark names this claim and no migration, and an audit of both
  hosts finds nothing;
* a controller that was taken over and goes on ends with `taken-over`: ledger, domains, marks and the number of QEMUs
  that were ever started are what they were before.

"rolled back": the guest stayed, and the destination's claim was freed. "completed": it moved, and so did its claim.
"""

STEPS_HEAD: Final = """
## Steps
Two libvirtds in namespaces. Each fault is met in the step of its row, before or after its work (`SIGSTOP`: before it).

"""
OTHERS: Final = {
    "job": ("The middle of the job", "libvirt's job was slowed, and half of the memory copied."),
    "window": (
        "Between the lease and the call",
        "Stopped after the one, before the other (`migration.lease`); in brackets how late that thread goes on.",
    ),
    "weather": ("Bad weather", "In the middle of the job."),
    "commits of a move": ("kill -9 after each commit of a move", "The commit is the last that the controller made."),
    "commits of a roll back": (
        "kill -9 after each commit of a roll back",
        "The destination's libvirt can't start the guest: a link is not there.",
    ),
}
HOSTS_HEAD: Final = """
## Hosts with real NUMA
Two QEMU machines with cells and huge pages of their own; the huge pages of each cell were counted too.

"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def load(lab: str) -> list[dict[str, Any]]:
    """Return the rows that were found on a lab."""
    path = FOUND / f"{lab}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def steps_table(rows: list[dict[str, Any]]) -> str:
    """Return steps by faults."""
    found = {(row["place"], row["fault"]): row["outcome"] for row in rows if row["group"] == "steps"}
    lines = [[f"`{step.name}`", *(found.get((step.name, fault), "") for fault in Fault)] for step in STEPS]
    return table(["step", *Fault], lines)


def list_table(rows: list[dict[str, Any]], group: str) -> str:
    """Return the faults of a group, one a line."""
    mine = [row for row in rows if row["group"] == group]
    if group.startswith("commits"):
        return table(
            ["commit", "what it was", "outcome"], [[row["place"], shortened(row), row["outcome"]] for row in mine]
        )
    return table(["where", "fault", "outcome"], [[row["place"], row["fault"], row["outcome"]] for row in mine])


def shortened(row: dict[str, Any]) -> str:
    """Return a commit's name and the beginning of its sentence, without the figures and the direction of this run."""
    words = str(row["hit"]).removeprefix("set_migration: ")
    words = words.partition("; ")[0].partition(": ")[0].partition(" findings")[0]
    return re.sub(r"\b(alpha|beta)\b", "HOST", re.sub(r" \d.*", "", words))


def page() -> str:
    """Return the page. Raises ValueError where a fault was not met as expected."""
    namespaces, hosts = load("namespaces"), load("hosts")
    off = [row for row in (*namespaces, *hosts) if row["outcome"] == NOT_AS_EXPECTED]
    if off:
        raise ValueError(f"not as expected: {', '.join(row['test'] for row in off)}")
    parts = [HEAD, STEPS_HEAD, steps_table(namespaces)]
    for group, (title, words) in OTHERS.items():
        parts.append(f"\n## {title}\n{words}\n\n{list_table(namespaces, group)}")
    lines = [[row["place"], row["fault"], row["outcome"]] for row in hosts]
    parts += [HOSTS_HEAD, table(["where", "fault", "outcome"], lines)]
    return "".join(parts)


def main() -> int:
    """Write the page and return the exit code."""
    try:
        text = page()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
