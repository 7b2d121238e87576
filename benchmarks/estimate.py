"""How right `numaferry migrate --estimate` is, on real migrations: `make bench-estimate`.

Guests of several sizes that write at several rates over hot sets of several sizes go from host alpha to beta, between
two real libvirtds in namespaces, each with a limit of its bandwidth. Before each move `ferry.estimate` says how it will
go; then it is made under the same policy, and given up after a time, so that some never arrive. What a guest writes is
never told to the estimate: it is measured. The first moves are for fitting (`FIXED_S` of the model), the others judge
it; beside it stands what dividing memory by bandwidth says. Prints a table and the goals, writes
build/bench/estimate.json; exit status 1 where a goal is missed. `make bench-estimate ARGS=--docs` puts it into docs/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import libvirt
import page
from bench_lab import completed_job, lab_of

from numaferry.errors import MigrationFailed
from numaferry.lab.guests import GuestCell, GuestSpec, SerialWatch, domain_xml, put_in_share
from numaferry.ledger import open_ledger
from numaferry.model import CpuSet, HostConfig, PolicyWish
from numaferry.service import Ferry

if TYPE_CHECKING:
    from numaferry.lab.model import Lab

OUT = Path("build/bench")
NAME = "estimate"
#: Moves for fitting, and moves that judge: half of them never end by themselves.
FITTING, JUDGING = 6, 24
#: Goals: median of the relative error of the duration; share of right answers whether it ends by itself.
MOST_ERROR = 0.30
LEAST_RIGHT = 0.90
#: What a guest goes round in is sent within the longest pause of the policy (0.5 s), or it is not: with room between.
FITS_S = 0.7
#: A move that takes this many times as long as its memory by its bandwidth, and at least so long, is given up.
PATIENCE, LEAST_PATIENCE_S = 5, 20
SETS = {"alpha": ("0", "1"), "beta": ("1", "0")}


@attrs.frozen
class Case:
    """A guest and a limit: MiB, MiB written per tenth of a second, MiB that they go round in (0: all), MiB/s."""

    memory_mib: int
    dirty_mib: int
    hot_mib: int
    bandwidth_mib_s: int

    @property
    def should_end(self) -> bool:
        """Tell whether it ends by itself, by what the guest was told to do; only for choosing the cases."""
        hot_mib = self.hot_mib or self.memory_mib
        return self.dirty_mib * 10 < self.bandwidth_mib_s or hot_mib < self.bandwidth_mib_s * FITS_S

    @property
    def timeout_s(self) -> int:
        """When it is given up."""
        return max(LEAST_PATIENCE_S, PATIENCE * self.memory_mib // self.bandwidth_mib_s)


def cases(count: int, seed: int) -> list[Case]:
    """Return so many different cases, half of which end by themselves."""
    rng = random.Random(seed)  # noqa: S311  (the same cases every time)
    found: dict[bool, list[Case]] = {True: [], False: []}
    while any(len(of_kind) < count // 2 for of_kind in found.values()):
        case = Case(
            rng.choice((192, 256, 384, 512)), rng.choice((0, 1, 2, 4, 8)), rng.choice((0, 8, 16, 48, 96, 160)),
            rng.choice((24, 32, 48, 64, 96)),
        )  # fmt: skip
        kind = found[case.should_end]
        if len(kind) < count // 2 and case not in kind:
            kind.append(case)
    return [case for pair in zip(found[True], found[False], strict=True) for case in pair]


class Bench:
    """A lab whose hosts are in a ledger."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.number = lab, 0
        self.ferry = Ferry(open_ledger(str(folder / "ledger.sqlite")))
        for host in lab.hosts:
            dedicated, shared = map(CpuSet.parse, SETS[host.name])
            config = HostConfig(
                cpu_dedicated_set=dedicated, cpu_shared_set=shared, reserved_host_memory_mb=64,
                migration_address=host.ip,
            )  # fmt: skip
            self.ferry.host_add(host.name, host.uri, config=config)

    def run(self, case: Case) -> dict[str, Any]:
        """Estimate and move one guest; return what was said and what happened."""
        self.number += 1
        name = f"g{self.number}"
        host = self.lab.host("alpha")
        spec = GuestSpec(
            name=name,
            image=put_in_share(self.lab, "tiny"),
            serial=host.share / f"{name}.serial",
            domain_type=self.lab.guest_type,
            cells=(GuestCell("0", case.memory_mib, "0"),),
            vcpu_pins={0: SETS["alpha"][0]},
            emulator_pin=SETS["alpha"][1],
            dirty_mib=case.dirty_mib,
            command_line=f"hot={case.hot_mib} check=1",
        )
        watch = SerialWatch.of_new(self.lab.share / f"{name}.serial")
        self._create(host.uri, domain_xml(spec))
        try:
            watch.until_count(20, 60)
            self.ferry.adopt((name,))
            return self._move(name, case)
        finally:
            for one in self.lab.hosts:
                self._destroy(one.uri, name)
            self.ferry.instance_forget(name)

    def _move(self, name: str, case: Case) -> dict[str, Any]:
        policy = PolicyWish.of(bandwidth_mib_s=case.bandwidth_mib_s)
        said = self.ferry.estimate(name, "beta", policy=policy)
        given_up = PolicyWish.of(bandwidth_mib_s=case.bandwidth_mib_s, completion_timeout_s=case.timeout_s)
        took_s = downtime_ms = None
        try:
            self.ferry.migrate(name, "beta", policy=given_up)
        except MigrationFailed:
            number = self.ferry.migration_list(instance=name)[0].id
            if not any("has not ended in" in one.sentence for one in self.ferry.migration_show(str(number)).events):
                raise
        else:
            stats = completed_job(self.lab.host("beta").uri, name)
            took_s, downtime_ms = stats["time_elapsed"] / 1000, stats["downtime"]
        return {
            **attrs.asdict(case),
            "said": {
                "converges": said.converges,
                "duration_s": said.duration_s,
                "downtime_ms": said.downtime_ms,
                "naive_s": said.naive_s,
                "dirty_mib_s": said.dirty_bps / (1 << 20),
                "hot_mib": said.hot_bytes / (1 << 20),
            },
            "converged": took_s is not None,
            "took_s": took_s,
            "downtime_ms": downtime_ms,
        }

    def _create(self, uri: str, xml: str) -> None:
        connection = libvirt.open(uri)
        connection.createXML(xml)
        connection.close()

    def _destroy(self, uri: str, name: str) -> None:
        connection = libvirt.open(uri)
        with contextlib.suppress(libvirt.libvirtError):
            connection.lookupByName(name).destroy()
        connection.close()


def errors(runs: list[dict[str, Any]], key: str) -> list[float]:
    """Return the relative error of a duration for each move that ended by itself and was expected to."""
    return [
        abs(one["said"][key] - one["took_s"]) / one["took_s"]
        for one in runs
        if one["converged"] and one["said"]["converges"]
    ]


def goals(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each goal with what was measured."""
    endless = sum(not one["converged"] for one in runs)
    right = [one["said"]["converges"] == one["converged"] for one in runs]
    error, naive = (statistics.median(errors(runs, key)) for key in ("duration_s", "naive_s"))
    return [
        {
            "goal": f"median error of the duration <= {MOST_ERROR:.0%}",
            "measured": f"{error:.0%} (memory by bandwidth: {naive:.0%})",
            "reached": error <= MOST_ERROR,
        },
        {
            "goal": f"right whether it ends by itself in >= {LEAST_RIGHT:.0%}",
            "measured": f"{sum(right)} of {len(runs)}, of which {endless} did not end",
            "reached": sum(right) >= LEAST_RIGHT * len(runs),
        },
    ]


def report(runs: list[dict[str, Any]]) -> str:
    """Return what is printed."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = [
        page.machine(f"{os.cpu_count()} shared cores"),
        f"{len(runs)} moves between two libvirtds in namespaces that were not used for fitting the model.",
        "",
        "| goal | measured | reached |",
        "|---|---|---|",
        *(f"| {one['goal']} | {one['measured']} | {'yes' if one['reached'] else 'no'} |" for one in goals(runs)),
        "",
        "| MiB | writes MiB/s over MiB | limit MiB/s | measured writing | estimate s | memory/bandwidth s | took s |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in runs:
        said = one["said"]
        told = cell(said["duration_s"]) if said["converges"] else "never"
        took = cell(one["took_s"]) if one["converged"] else "given up"
        lines.append(
            f"| {one['memory_mib']} | {10 * one['dirty_mib']} over {one['hot_mib'] or one['memory_mib']}"
            f" | {one['bandwidth_mib_s']} | {said['dirty_mib_s']:.0f} over {said['hot_mib']:.0f} | {told}"
            f" | {cell(said['naive_s'])} | {took} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=JUDGING, help="that judge the model")
    parser.add_argument("--fit", action="store_true", help="make only the moves for fitting")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/")
    wanted = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    chosen = cases(FITTING, seed=1) if wanted.fit else cases(wanted.moves, seed=2)
    runs = []
    with tempfile.TemporaryDirectory(dir=OUT) as folder, lab_of("namespaces", NAME) as lab:
        bench = Bench(lab, Path(folder))
        for number, case in enumerate(chosen, 1):
            runs.append(bench.run(case))
            print(f"... {number} of {len(chosen)}: {runs[-1]}", file=sys.stderr)
        bench.ferry.close()
    found = goals(runs)
    (OUT / "estimate.json").write_text(json.dumps({"runs": runs, "goals": found}, indent=1) + "\n", encoding="utf-8")
    said = report(runs)
    print(said)
    if wanted.docs:
        page.publish("bench-estimate", said)
    return int(not all(goal["reached"] for goal in found))


if __name__ == "__main__":
    sys.exit(main())
