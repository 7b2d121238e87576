"""What a claim costs beyond the commit that makes it durable, on both databases: `make bench-ledger`.

1 to 16 clients, each a process of its own, claim room for a 2-cell guest and give it back; beside it the same clients
commit one bare row each by the same engine. All of it is interleaved: a round has every count of clients with every
kind of work. Prints the tables and the goals, writes build/bench/ledger.json; exit status 1 where a goal is missed or a
promise was made twice. The PostgreSQL server is started in build/bench, with its settings as they come (fsync on), and
removed at the end. `make bench-ledger ARGS=--docs` puts the tables into docs/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import page
from ledger_fleet import add_bare_table, breaches, fill, overlaps
from postgresql_server import postgresql
from sqlalchemy import text

from numaferry.ledger import open_ledger
from numaferry.ledger.engine import open_engines
from numaferry.ledger.location import ledger_location

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = Path("build/bench")
CLIENTS = (1, 2, 4, 8, 16)
#: What is measured: a bare commit, a claim on one of several hosts, a claim on the host that everybody wants.
KINDS = ("commit", "claim", "same")
ROUNDS = 5
SECONDS = 1.5
#: Goals: milliseconds of a claim beyond the bare commit at 1 client; claims/s of 16 clients by those of 1.
MOST_BEYOND_MS = 5.0
LEAST_RELATIVE = 0.8
DATABASES = ("sqlite", "postgresql")
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@contextlib.contextmanager
def sqlite_url() -> Iterator[str]:
    """A file for a ledger on the disk that has build/."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=OUT))
    try:
        yield str(folder / "ledger.sqlite")
    finally:
        shutil.rmtree(folder)


URLS = {"sqlite": sqlite_url, "postgresql": lambda: postgresql(OUT)}


class Crew:
    """The clients of one ledger; the first so many of them are put to work."""

    def __init__(self, url: str, guests: list[str]) -> None:
        script = str(Path(__file__).with_name("ledger_client.py"))
        self.processes = [
            subprocess.Popen(
                [sys.executable, script, url, guest, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, guest in enumerate(guests)
        ]

    def work(self, clients: int, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Let so many clients do a job at the same time, and return their answers."""
        busy = self.processes[:clients]
        line = json.dumps({**job, "at": time.monotonic() + 0.05}) + "\n"
        for process in busy:
            if process.stdin is None:
                raise RuntimeError("a client has no standard input")
            process.stdin.write(line)
            process.stdin.flush()
        return [self._answer(process) for process in busy]

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        found = process.stdout.readline() if process.stdout is not None else ""
        if not found:
            raise RuntimeError("a client ended; what it said is above")
        answer: dict[str, Any] = json.loads(found)
        return answer

    def close(self) -> None:
        """End every client."""
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def rounds(crew: Crew, wanted: argparse.Namespace) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Return kind → clients → for each round what all clients together did."""
    everybody = len(crew.processes)
    for kind in KINDS:
        crew.work(everybody, {"do": kind, "seconds": 0.3})
    found: dict[str, dict[int, list[dict[str, Any]]]] = {kind: {count: [] for count in CLIENTS} for kind in KINDS}
    for number in range(wanted.rounds):
        print(f"... round {number + 1} of {wanted.rounds}", file=sys.stderr)
        for count in CLIENTS:
            for kind in KINDS:
                answers = crew.work(count, {"do": kind, "seconds": wanted.seconds})
                found[kind][count].append(together(answers))
    return found


def together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up what the clients of one round did."""
    failed: dict[str, int] = {}
    for answer in answers:
        for message, count in answer["failed"].items():
            failed[message] = failed.get(message, 0) + count
    return {
        "ms": [one for answer in answers for one in answer["ms"]],
        "per_s": sum(answer["per_s"] for answer in answers),
        "again": sum(answer["again"] for answer in answers),
        "failed": failed,
    }


def summary(per_round: list[dict[str, Any]], alone: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one kind at one count of clients; `alone` is the same kind with 1 client."""
    milliseconds = sorted(one for entry in per_round for one in entry["ms"])
    failed: dict[str, int] = {}
    for entry in per_round:
        for message, count in entry["failed"].items():
            failed[message] = failed.get(message, 0) + count
    return {
        "median_ms": statistics.median(milliseconds),
        "p99_ms": milliseconds[int(len(milliseconds) * 0.99)],
        "per_s": statistics.median(entry["per_s"] for entry in per_round),
        "relative": statistics.median(
            mine["per_s"] / one["per_s"] if one["per_s"] else 0.0 for mine, one in zip(per_round, alone, strict=True)
        ),
        "conflicts": sum(entry["again"] for entry in per_round) / len(milliseconds),
        "count": len(milliseconds),
        "failed": failed,
    }


def measure(database: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """Run all of it on one database."""
    with URLS[database]() as url:
        ledger = open_ledger(url)
        guests = fill(ledger, max(CLIENTS))
        add_bare_table(url, max(CLIENTS))
        crew = Crew(url, guests)
        try:
            found = rounds(crew, wanted)
            crew.work(len(guests), {"do": "keep"})
        finally:
            crew.close()
        claims, pairs = overlaps(ledger)
        broken = breaches(url)
        version = server_version(url)
        ledger.close()
    figures = {
        kind: {str(count): summary(of_kind[count], of_kind[1]) for count in CLIENTS} for kind, of_kind in found.items()
    }
    for count in map(str, CLIENTS):
        beyond = figures["claim"][count]["median_ms"] - figures["commit"][count]["median_ms"]
        figures["claim"][count]["beyond_commit_ms"] = beyond
    return {
        "database": database,
        "version": version,
        "figures": figures,
        "claims": claims,
        "double_promises": {**broken, "one CPU held by two guests at the same time": pairs},
    }


def server_version(url: str) -> str:
    """Return the database's version."""
    where = ledger_location(url)
    if where.path is not None:
        return sqlite3.sqlite_version
    engine, _ = open_engines(where)
    with engine.connect() as connection:
        version = str(connection.execute(text("SHOW server_version")).scalar_one())
    engine.dispose()
    return version


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each goal of one database with its figure and whether it is reached."""
    title, claim = TITLES[result["database"]], result["figures"]["claim"]
    beyond, relative = claim["1"]["beyond_commit_ms"], claim["16"]["relative"]
    doubled = sum(result["double_promises"].values())
    return [
        {
            "goal": f"{title}, 1 client: claim beyond the bare commit <= {MOST_BEYOND_MS:g} ms (median)",
            "measured": f"{beyond:.2f} ms",
            "reached": beyond <= MOST_BEYOND_MS,
        },
        {
            "goal": f"{title}: claims/s of 16 clients >= {LEAST_RELATIVE:g}x those of 1",
            "measured": f"{relative:.2f}x",
            "reached": relative >= LEAST_RELATIVE,
        },
        {
            "goal": f"{title}: nothing promised twice",
            "measured": f"{doubled} in {result['claims']:,} claims",
            "reached": doubled == 0,
        },
    ]


def ms(figures: dict[str, Any]) -> str:
    """Return median and 99th percentile as two cells."""
    return f"{figures['median_ms']:.2f} | {figures['p99_ms']:.1f}"


def table(result: dict[str, Any]) -> str:
    """Return one database's figures as two Markdown tables."""
    figures = result["figures"]
    title = f"{TITLES[result['database']]} {result['version']}"
    lines = [
        f"{title}, a claim on one of several hosts:",
        "",
        "| clients | bare commit ms | p99 | claim ms | p99 | beyond ms | bare/s | claims/s | to 1 client | conflicts |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in map(str, CLIENTS):
        bare, claim = figures["commit"][count], figures["claim"][count]
        lines.append(
            f"| {count} | {ms(bare)} | {ms(claim)} | {claim['beyond_commit_ms']:.2f} | {bare['per_s']:.0f}"
            f" | {claim['per_s']:.0f} | {claim['relative']:.2f}x | {claim['conflicts']:.3f} |"
        )
    lines += [
        "",
        f"{title}, all clients want the same host:",
        "",
        "| clients | claim ms | p99 | claims/s | to 1 client | conflicts |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in map(str, CLIENTS):
        same = figures["same"][count]
        lines.append(
            f"| {count} | {ms(same)} | {same['per_s']:.0f} | {same['relative']:.2f}x | {same['conflicts']:.3f} |"
        )
    return "\n".join(lines)


def report(results: list[dict[str, Any]]) -> str:
    """Return everything that is printed."""
    lines = [page.machine(f"{os.cpu_count()} shared cores"), "", "| goal | measured | reached |", "|---|---:|---|"]
    for result in results:
        lines += [
            f"| {one['goal']} | {one['measured']} | {'yes' if one['reached'] else 'no'} |" for one in goals(result)
        ]
    for result in results:
        lines += ["", table(result)]
        for kind, of_kind in result["figures"].items():
            for count, figures in of_kind.items():
                lines += [f"\n{kind}, {count} clients: {n} times {said}" for said, n in figures["failed"].items()]
    return "\n".join(lines)


def main() -> int:
    """Measure; exit status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=DATABASES, help="one database only")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each kind at each count in each round")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/")
    wanted = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results = [measure(one, wanted) for one in DATABASES if wanted.only in {None, one}]
    for result in results:
        result["goals"] = goals(result)
    (OUT / "ledger.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    said = report(results)
    print(said)
    if wanted.docs:
        page.publish("bench-ledger", said)
    return int(not all(goal["reached"] for result in results for goal in result["goals"]))


if __name__ == "__main__":
    sys.exit(main())
