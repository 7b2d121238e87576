"""nova's fit and ours on the same cases, alternating in one run: `make bench-fit`.

Prints the table with ratios, writes build/bench/fit.json (`[{case, nova_ms, numaferry_ms, ratio, nova_capped}]`),
build/bench/fit-details.json and build/bench/fit.svg. CPU time of the fit alone, the median of all rounds; nova is
stopped after --cap seconds a case: then the row says so and its ratio is a lower bound. `--no-nova` times ours only;
`make bench-fit ARGS=--docs` puts table and plot into docs/.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import page
from fit_table import Row, rows
from setup import NOVA, nova_python

from numaferry.fit import cases, numa_fit_instance_to_host
from numaferry.request import numa_get_constraints

if TYPE_CHECKING:
    from numaferry.model import HostState, NumaRequest

OUT = Path("build/bench")
#: What fit.json holds of a row; numaferry_ms is the first valid placement, or the misfit with its explanation.
KEYS = ("case", "nova_ms", "numaferry_ms", "ratio", "nova_capped")
PAGE, PLOT = Path("docs/benchmarks.md"), Path("docs/benchmarks-fit.svg")
ROUNDS = 5
LIMITS = {"cpu_allocation_ratio": 16.0, "ram_allocation_ratio": 1.0}


class Nova:
    """nova's side in a process of its own; started again where a case had to be cut short."""

    def __init__(self, cap_s: float) -> None:
        self.cap_s = cap_s
        self.process: subprocess.Popen[str] | None = None

    def ask(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Return the worker's answer, None where it took longer than the cap."""
        if self.process is None:
            worker = str(Path(__file__).with_name("nova_worker.py"))
            self.process = subprocess.Popen(
                [str(nova_python()), worker],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            # its imports are not the case's time
            warm = rows()[0]
            self._send({"hosts": warm.hosts, "guest": warm.guest, "repeats": 1}, 120.0)
        return self._send(job, self.cap_s)

    def _send(self, job: dict[str, Any], cap_s: float) -> dict[str, Any] | None:
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("nova's worker is not running")
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        # the cap counts the worker's own CPU seconds: the machine may be busy with other things
        until = cpu_seconds(process.pid) + cap_s
        while not select.select([process.stdout], [], [], 0.5)[0]:
            if cpu_seconds(process.pid) > until:
                self.close()
                return None
        line = process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("nova's worker ended; run benchmarks/nova_worker.py by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a running process has used."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Ours:
    """Our side of one row: the same hosts and guest as values."""

    def __init__(self, row: Row) -> None:
        guest = {"id": 0, "guest": row.guest, "limits": LIMITS}
        self.request: NumaRequest = numa_get_constraints(cases.flavor_of(guest), aliases=cases.ALIASES)
        self.hosts: list[HostState] = [cases.host_of({**guest, "host": host}) for host in row.hosts]
        # over a fleet nobody reads a thousand explanations
        self.explain = len(self.hosts) == 1

    def run(self, score: str) -> tuple[int, float]:
        """Return how many hosts fit and the CPU time in milliseconds."""
        start = time.process_time()
        fits = 0
        for host in self.hosts:
            fits += bool(numa_fit_instance_to_host(host, self.request, score=score, explain=self.explain))  # type: ignore[arg-type]
        return fits, (time.process_time() - start) * 1000


def repeated(ours: Ours, score: str) -> float:
    """Return the mean of enough calls to measure (about 20 ms worth), in milliseconds."""
    _, once = ours.run(score)
    count = max(1, min(200, int(20 / max(once, 0.01))))
    return sum(ours.run(score)[1] for _ in range(count)) / count


def measure(row: Row, nova: Nova | None) -> dict[str, Any]:
    """Time one row on both sides, alternating."""
    ours = Ours(row)
    fits, _ = ours.run("first")
    if bool(fits) != row.fits:
        raise RuntimeError(f"{row.name}: {fits} of {len(row.hosts)} hosts fit")
    first, best, theirs, capped = [], [], [], False
    nova_fits: int | None = None
    job = {"hosts": row.hosts, "guest": row.guest, "repeats": 1}
    for _ in range(ROUNDS):
        first.append(repeated(ours, "first"))
        best.append(repeated(ours, "best"))
        if nova is None or capped:
            continue
        answer = nova.ask(job)
        if answer is None:
            capped = True
            continue
        nova_fits = answer["fits"]
        theirs.append(statistics.median(answer["ms"]))
        job = {"repeats": 1 if theirs[-1] > 50 else 10}
        if theirs[-1] > 3000:
            break
    nova_ms = nova.cap_s * 1000 if capped and nova else (statistics.median(theirs) if theirs else None)
    our_ms = statistics.median(first)
    return {
        "case": row.name,
        "nova_ms": nova_ms,
        "nova_capped": capped,
        "nova_fits": nova_fits,
        "fits": fits,
        "numaferry_ms": our_ms,
        "numaferry_best_ms": statistics.median(best),
        "ratio": nova_ms / our_ms if nova_ms else None,
        "goal": goal(row),
        "reached": reached(row, our_ms, nova_ms),
    }


def goal(row: Row) -> str:
    """Return the goal of a row in words."""
    if row.faster is not None:
        return f">= {row.faster:g}x"
    return f"<= {row.at_most_ms:g} ms" if row.at_most_ms is not None else ""


def reached(row: Row, our_ms: float, nova_ms: float | None) -> bool | None:
    """Tell whether the goal is reached; None where there is none, or nothing to compare with."""
    if row.at_most_ms is not None:
        return our_ms <= row.at_most_ms
    if row.faster is not None and nova_ms is not None:
        return nova_ms / our_ms >= row.faster
    return None


def short(number: float) -> str:
    """Return three digits that mean something: ``0.088``, ``7.88``, ``15,300``."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| case | nova ms | numaferry first ms | numaferry best ms | ratio (first) | goal | reached |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for one in results:
        more = "> " if one["nova_capped"] else ""
        nova_ms = "-" if one["nova_ms"] is None else f"{more}{short(one['nova_ms'])}"
        ratio = "-" if one["ratio"] is None else f"{more}{short(one['ratio'])}x"
        yes = {True: "yes", False: "no", None: ""}[one["reached"]]
        ours = f"{one['numaferry_ms']:.3f} | {one['numaferry_best_ms']:.3f}"
        lines.append(f"| {one['case']} | {nova_ms} | {ours} | {ratio} | {one['goal']} | {yes} |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]]) -> str:
    """Return a bar chart on a logarithmic axis as SVG: for each case nova above, numaferry below."""
    left, width, line = 380, 520, 44
    height = line * len(results) + 50

    def x(milliseconds: float) -> float:
        """0.01 ms to 100 s over the width: seven decades."""
        decades = len(str(int(max(1.0, milliseconds * 100)))) - 1
        fraction = milliseconds * 100 / 10**decades
        return left + width * min(7.0, decades + (max(1.0, fraction) - 1) / 9) / 7

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{left + width + 90}" height="{height}" fill="white"/>',
    ]
    for decade, words in enumerate(("10 us", "0.1 ms", "1 ms", "10 ms", "0.1 s", "1 s", "10 s", "100 s")):
        at = left + width * decade / 7
        parts.append(f'<line x1="{at:.0f}" y1="10" x2="{at:.0f}" y2="{height - 30}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.0f}" y="{height - 12}" text-anchor="middle">{words}</text>')
    for number, one in enumerate(results):
        top = 16 + line * number
        parts.append(f'<text x="{left - 8}" y="{top + 18}" text-anchor="end">{one["case"]}</text>')
        for offset, key, colour in ((0, "nova_ms", "#b0b0b0"), (14, "numaferry_ms", "#1f77b4")):
            if one[key] is None:
                continue
            end = x(one[key])
            more = "over " if key == "nova_ms" and one["nova_capped"] else ""
            parts.append(f'<rect x="{left}" y="{top + offset}" width="{end - left:.1f}" height="12" fill="{colour}"/>')
            parts.append(f'<text x="{end + 4:.1f}" y="{top + offset + 10}">{more}{short(one[key])} ms</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Run the table; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-nova", action="store_true", help="time numaferry only")
    parser.add_argument("--cap", type=float, default=60.0, help="seconds that nova may take for one case")
    parser.add_argument("--docs", action="store_true", help="put table and plot into docs/")
    wanted = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    nova = None if wanted.no_nova else Nova(wanted.cap)
    results = []
    try:
        for row in rows():
            print(f"... {row.name}", file=sys.stderr)
            results.append(measure(row, nova))
    finally:
        if nova is not None:
            nova.close()
    short_rows = [{key: one[key] for key in KEYS} for one in results]
    (OUT / "fit.json").write_text(json.dumps(short_rows, indent=1) + "\n", encoding="utf-8")
    (OUT / "fit-details.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (OUT / "fit.svg").write_text(plot(results), encoding="utf-8")
    where = page.machine(f"a virtual machine with {os.cpu_count()} CPUs", NOVA.replace("==", " "))
    said = f"{where}\n\n{table(results)}"
    print(said)
    if wanted.docs:
        page.publish("bench-fit", said)
        PLOT.write_text(plot(results), encoding="utf-8")
    return int(any(one["reached"] is False for one in results))


if __name__ == "__main__":
    sys.exit(main())
