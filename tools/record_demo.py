"""Put a recorded run of `make demo` into the documents: all of it into docs/demo.md, its outline into README.md.

``make demo 2>&1 | tee build/demo.log && tools/record_demo.py build/demo.log``. Nothing is rewritten but this: the
user's home directory becomes ``~``, and of more than three progress lines in a row the middle ones become ``…``. The
outline has the headings, the commands, the claims that were proven, and the picture of host B after the move.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
_PROGRESS: Final = re.compile(r"^ +migration \d+: running live_migration, ")
_TOLD: Final = re.compile(r"^  (error:|hint:|\S+ moved from |shared CPUs|two guests now share|  fits if instance )")
_LEFT_OUT: Final = re.compile(r"^(Host [AB], |\$ numaferry topology |  |\s*\d+\.\d s  |\s*$)")


def shortened(text: str, home: str) -> list[str]:
    """Return the lines of a log with the home directory and long runs of progress abbreviated."""
    lines: list[str] = []
    run: list[str] = []
    for line in [*text.replace(home, "~").splitlines(), ""]:
        if _PROGRESS.match(line):
            run.append(line.rstrip())
            continue
        lines += run if len(run) <= 3 else [run[0], "  …", run[-1]]
        run = []
        lines.append(line.rstrip())
    return lines[:-1]


def picture_after(lines: list[str]) -> list[str]:
    """Return the picture of host B after the move, or nothing where the run has none."""
    if "Host B, after:" not in lines:
        return []
    at = lines.index("Host B, after:")
    end = next((i for i in range(at + 2, len(lines)) if not lines[i].startswith("  ")), len(lines))
    return lines[at:end]


def outline(lines: list[str]) -> list[str]:
    """Return what fits on a screen: headings, commands, errors and proofs, and one picture."""
    picture = picture_after(lines)
    kept: list[str] = []
    for line in lines:
        if line == "Host B, after:":
            kept += picture
        elif line.startswith("── ") and "took" not in line:
            kept += ["", line]
        elif _TOLD.match(line) or not _LEFT_OUT.match(line):
            kept.append(line)
    return kept


def put(path: Path, lines: list[str]) -> None:
    """Replace what stands between the marks of a document; raises ValueError where it has none."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} lacks {BEGIN} and {END}")
    body = "\n".join(lines).strip("\n")
    path.write_text(f"{before}{BEGIN}\n```text\n{body}\n```\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Record the log that is named."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: tools/record_demo.py LOG\n")
        return 2
    lines = shortened(Path(sys.argv[1]).read_text(encoding="utf-8"), str(Path.home()))
    put(ROOT / "docs" / "demo.md", lines)
    put(ROOT / "README.md", outline(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
