"""What numaferry costs beside `virsh migrate`, on real hosts: `make bench-migrate`.

One guest goes from host alpha to beta and back, by `virsh migrate` and by `numaferry migrate` in turn, with the very
destination XML that numaferry computes (`numaferry migrate --as-virsh` prints both). Each move is timed from the start
of its process to its exit: numaferry's claim, checks, read-back and audits are in it. The pause is libvirt's own figure
(`downtime` of the finished job). A pair is one move by each in the same direction; which of the two begins changes from
pair to pair. Prints a table and the goals, writes build/bench/migrate.json; exit status 1 where a goal is missed.

The hosts are emulated machines with cells and huge pages of their own (`--lab hosts`), or two libvirtds on this
machine's own cells (`--lab namespaces`, where a move takes a fraction of a second and the fixed cost is all there is).
`make bench-migrate ARGS=--docs` puts the table into docs/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import page
from bench_lab import completed_job, lab_of

from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, SerialWatch, domain_xml, put_in_share

if TYPE_CHECKING:
    from numaferry.lab.model import Lab

OUT = Path("build/bench")
NAME = "bench"
#: Two cells of 768 MiB each, half of it in huge pages.
NOTATION = "2 cells x 2 cores x 2 threads, 1536M, 2M:384"
#: lab → dedicated and shared CPUs by host.
SETS = {
    "hosts": {"alpha": ("1-3,5-7", "0,4"), "beta": ("1-3,5-7", "0,4")},
    "namespaces": {"alpha": ("0", "1"), "beta": ("1", "0")},
}
MAC = "52:54:00:00:be:01"
PAIRS = {"hosts": 12, "namespaces": 30}
MOST_PAIRS = 40
#: Goals: the upper bound of the ratio of times; the pause's interval holds 1.00 and is no wider than this.
MOST_TOTAL = 1.10
MOST_WIDTH = 0.15
RESAMPLES = 4000
FIGURES = ("ms", "job_ms", "downtime_ms")


class Bench:
    """A lab, one guest in it, and the two commands that move it."""

    def __init__(self, lab: Lab, folder: Path, kind: str, memory_mib: int) -> None:
        self.lab, self.folder, self.kind = lab, folder, kind
        self.environment = {**os.environ, "NUMAFERRY_DB": str(folder / "ledger.sqlite"), "PYTHONWARNINGS": "ignore"}
        self.plans: dict[str, list[str]] = {}
        self._import_hosts()
        self.watch = self._start(memory_mib)
        self._run("numaferry", "instance", "adopt", NAME)

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", *words] if words[0] == "numaferry" else list(words)

    def _run(self, *words: str) -> str:
        """Run a command to its end; a failure ends the benchmark with what the command said."""
        done = subprocess.run(
            self._command(words), env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=600, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _import_hosts(self) -> None:
        tables = []
        for host in self.lab.hosts:
            dedicated, shared = SETS[self.kind][host.name]
            tables.append(
                f'[[host]]\nname = "{host.name}"\nuri = "{host.uri}"\nmigration_address = "{host.ip}"\n'
                f'cpu_dedicated_set = "{dedicated}"\ncpu_shared_set = "{shared}"\nreserved_host_memory_mb = 64\n'
                f'physical_networks = {{ physnet0 = "{host.data_links[0]}" }}\n'
            )
        (self.folder / "hosts.toml").write_text("\n".join(tables), encoding="utf-8")
        self._run("numaferry", "host", "import", "hosts.toml")

    def _start(self, memory_mib: int) -> SerialWatch:
        """Start the guest on alpha and wait until it counts."""
        host = self.lab.host("alpha")
        numa = self.kind == "hosts"
        two = (GuestCell("0", memory_mib // 2, "0"), GuestCell("1", memory_mib // 2, "1"))
        cells = two if numa else (GuestCell("0", memory_mib, "0"),)
        dedicated, shared = SETS[self.kind]["alpha"]
        spec = GuestSpec(
            name=NAME,
            image=put_in_share(self.lab, "tiny"),
            serial=host.share / f"{NAME}.serial",
            domain_type=self.lab.guest_type,
            vcpus=2 if numa else 1,
            cells=cells,
            vcpu_pins={0: "2", 1: "6"} if numa else {0: dedicated},
            emulator_pin=shared,
            hugepages=numa,
            nics=(MacvtapNic(host.data_links[0], MAC),),
        )
        watch = SerialWatch.of_new(self.lab.share / f"{NAME}.serial")
        path = self.folder / f"{NAME}.xml"
        path.write_text(domain_xml(spec), encoding="utf-8")
        self._run("virsh", "-c", host.uri, "define", str(path))
        self._run("virsh", "-c", host.uri, "start", NAME)
        watch.until_count(3, 180)
        return watch

    def learn(self, dest: str) -> None:
        """Write down numaferry's XML and `virsh migrate` for a direction, from where the guest is now."""
        plan = json.loads(self._run("numaferry", "migrate", NAME, "--dest", dest, "--dry-run", "-f", "json"))
        words = [str(word) for word in plan["virsh"]]
        for name, xml in ((f"{NAME}-dest.xml", plan["dest_xml"]), (f"{NAME}-persistent.xml", plan["persistent_xml"])):
            path = self.folder / f"{dest}-{name}"
            path.write_text(xml, encoding="utf-8")
            words = [str(path) if word == name else word for word in words]
        self.plans[dest] = words

    def warm_up(self) -> None:
        """Move to and fro by each, which is not counted: nothing is cached before."""
        for dest in ("beta", "alpha"):
            self.learn(dest)
            self.move("numaferry", dest)
        for dest in ("beta", "alpha"):
            self.move("virsh", dest)

    def move(self, by: str, dest: str) -> dict[str, float]:
        """Move the guest; return the milliseconds of the process, of libvirt's job and of the pause."""
        words = self.plans[dest] if by == "virsh" else ["numaferry", "migrate", NAME, "--dest", dest]
        began = time.perf_counter()
        self._run(*words)
        took_ms = (time.perf_counter() - began) * 1000
        stats = completed_job(self.lab.host(dest).uri, NAME)
        if not self.watch.until_more().intact:
            raise RuntimeError(f"the guest's counter broke in a move by {by}")
        return {"ms": took_ms, "job_ms": float(stats["time_elapsed"]), "downtime_ms": float(stats["downtime"])}


def measure(bench: Bench, pairs: int) -> list[dict[str, Any]]:
    """Return the pairs: the destination, and by whom → milliseconds."""
    found: list[dict[str, Any]] = []
    while len(found) < pairs:
        order = ("virsh", "numaferry") if len(found) % 4 < 2 else ("numaferry", "virsh")
        moves = {by: {dest: bench.move(by, dest) for dest in ("beta", "alpha")} for by in order}
        found += [{"dest": dest, **{by: moves[by][dest] for by in order}} for dest in ("beta", "alpha")]
        print(f"... {len(found)} of {pairs} pairs", file=sys.stderr)
    return found


def interval(values: list[float], rng: random.Random) -> tuple[float, float, float]:
    """Return the median with the bounds of its 95 % bootstrap interval."""
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def figures(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios with their intervals, and the medians."""
    rng = random.Random(1)  # noqa: S311  (the same resamples every time)

    def ratio(of: str) -> dict[str, float]:
        # a pause shorter than libvirt's millisecond is one
        values = [max(1.0, one["numaferry"][of]) / max(1.0, one["virsh"][of]) for one in pairs]
        return dict(zip(("median", "low", "high"), interval(values, rng), strict=True))

    def median(by: str, of: str) -> float:
        return statistics.median(one[by][of] for one in pairs)

    extra = [one["numaferry"]["ms"] - one["virsh"]["ms"] for one in pairs]
    return {
        "pairs": len(pairs),
        "ratio_total": ratio("ms"),
        "ratio_job": ratio("job_ms"),
        "ratio_downtime": ratio("downtime_ms"),
        "fixed_overhead_ms": dict(zip(("median", "low", "high"), interval(extra, rng), strict=True)),
        "medians": {by: {of: median(by, of) for of in FIGURES} for by in ("virsh", "numaferry")},
    }


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each goal with what was measured."""
    total, pause = found["ratio_total"], found["ratio_downtime"]
    return [
        {
            "goal": f"time, upper bound of numaferry / virsh <= {MOST_TOTAL:.2f}",
            "measured": f"{total['median']:.3f} ({total['low']:.3f} to {total['high']:.3f})",
            "reached": total["high"] <= MOST_TOTAL,
        },
        {
            "goal": f"pause, interval holds 1.00 and is no wider than +/- {MOST_WIDTH:.2f}",
            "measured": f"{pause['median']:.3f} ({pause['low']:.3f} to {pause['high']:.3f})",
            "reached": pause["low"] <= 1 <= pause["high"] and pause["high"] - pause["low"] <= 2 * MOST_WIDTH,
        },
    ]


def report(lab: str, memory_mib: int, found: dict[str, Any]) -> str:
    """Return what is printed."""
    extra = found["fixed_overhead_ms"]
    where = "two emulated hosts" if lab == "hosts" else "two libvirtds in namespaces"
    more = f"{extra['median']:.0f} ms more than virsh (95 %: {extra['low']:.0f} to {extra['high']:.0f})"
    lines = [
        page.machine(f"{os.cpu_count()} shared cores"),
        f"{found['pairs']} pairs of moves of a guest of {memory_mib} MiB between {where}; numaferry takes {more}.",
        "",
        "| goal | median ratio (95 % interval) | reached |",
        "|---|---:|---|",
        *(f"| {one['goal']} | {one['measured']} | {'yes' if one['reached'] else 'no'} |" for one in goals(found)),
        "",
        "| medians | process ms | libvirt's job ms | pause ms |",
        "|---|---:|---:|---:|",
    ]
    for by, of in found["medians"].items():
        lines.append(f"| {by} migrate | {of['ms']:.0f} | {of['job_ms']:.0f} | {of['downtime_ms']:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", choices=sorted(SETS), default="hosts")
    parser.add_argument("--pairs", type=int, help="at first; more are made while the pause's interval is too wide")
    parser.add_argument("--memory", type=int, default=384, metavar="MIB", help="of the guest")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/")
    wanted = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    pairs = wanted.pairs or PAIRS[wanted.lab]
    notations = (NOTATION, NOTATION) if wanted.lab == "hosts" else ()
    with lab_of(wanted.lab, NAME, notations) as lab, tempfile.TemporaryDirectory(prefix="numaferry-bench-") as folder:
        bench = Bench(lab, Path(folder), wanted.lab, wanted.memory)
        bench.warm_up()
        found = measure(bench, pairs)
        while not goals(figures(found))[1]["reached"] and len(found) < MOST_PAIRS and wanted.pairs is None:
            found += measure(bench, 4)
    result = {"lab": wanted.lab, "memory_mib": wanted.memory, **figures(found), "goals": goals(figures(found))}
    (OUT / "migrate.json").write_text(json.dumps({**result, "each": found}, indent=1) + "\n", encoding="utf-8")
    said = report(wanted.lab, wanted.memory, result)
    print(said)
    if wanted.docs:
        page.publish("bench-migrate", said)
    return int(not all(goal["reached"] for goal in result["goals"]))


if __name__ == "__main__":
    sys.exit(main())
