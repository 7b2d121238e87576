"""docs/benchmarks.md: what every benchmark that is run with `--docs` puts there, and where it was measured."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

PAGE = Path("docs/benchmarks.md")


def machine(cpus: str, *more: str) -> str:
    """Return the line that says where this was measured; `cpus` names them ("2 shared cores"), `more` is said too."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    versions = ", ".join(
        (f"Linux {platform.release().partition('-')[0]}", f"Python {platform.python_version()}", *more)
    )
    return (
        f"Measured {time.strftime('%Y-%m-%d', time.gmtime())} on {cpus}"
        f" ({found[1] if found else platform.machine()}), {versions}; load average {load}."
    )


def publish(name: str, said: str) -> None:
    """Put what a benchmark said into the page, between its markers."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}{said}\n{end}{after}", encoding="utf-8")
