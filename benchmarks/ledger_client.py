"""One client of `make bench-ledger`, a process of its own: claims or bare commits for as long as it is told.

Reads a job per line from standard input (`{"do", "seconds", "at"}`), answers with what it measured. Times are wall
time; what a transaction that was begun again cost is in it.
"""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from ledger_fleet import POPULAR, host_names
from sqlalchemy import Engine, event, text

from numaferry.errors import NumaferryError
from numaferry.ledger import open_ledger
from numaferry.ledger.engine import open_engines
from numaferry.ledger.location import ledger_location
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from collections.abc import Callable

#: As many as the shortlist of a migration has.
CANDIDATES = 5
BARE = text("UPDATE bare SET number = number + 1 WHERE client = :client")


class Client:
    """A controller with one guest that it moves to and fro in the ledger."""

    def __init__(self, url: str, guest: str, number: int) -> None:
        self.ledger = open_ledger(url)
        self.engine = open_engines(ledger_location(url))[0]
        self.guest = guest
        self.number = number
        home = self.ledger.instance(guest).host
        self.hosts = [name for name in host_names() if name != home]
        self.rng = random.Random(number)  # noqa: S311  (the same choices every time)
        self.rolled_back = 0
        self.move = ""
        event.listen(Engine, "rollback", self._count)
        self.jobs: dict[str, Callable[[], tuple[float, int]]] = {
            "commit": self.commit,
            "claim": lambda: self.claim(self.rng.sample(self.hosts, CANDIDATES)),
            "same": lambda: self.claim([POPULAR]),
        }

    def _count(self, _connection: object) -> None:
        self.rolled_back += 1

    def commit(self) -> tuple[float, int]:
        """Update one row and commit; return seconds and transactions that had to be begun again."""
        start = time.perf_counter()
        with self.engine.begin() as connection:
            connection.execute(BARE, {"client": self.number})
        return time.perf_counter() - start, 0

    def claim(self, candidates: list[str], *, keep: bool = False) -> tuple[float, int]:
        """Claim, give it back unless told to keep it; return the claim's seconds, and how often it was begun again."""
        before, self.move = self.rolled_back, str(uuid.uuid4())
        start = time.perf_counter()
        self.ledger.live_migration_claim(self.guest, candidates, migration_uuid=self.move)
        spent, again = time.perf_counter() - start, self.rolled_back - before
        if not keep:
            self.give_back()
        return spent, again

    def give_back(self) -> None:
        """Drop the claim that was made last; nothing where it never came to be."""
        self.ledger.drop_move_claim(self.move, MigrationStatus.CANCELLED, "given back")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one thing again and again until the time is over, what was begun by then to its end."""
        once = self.jobs[job["do"]]
        time.sleep(max(0.0, job["at"] - time.monotonic()))
        until = job["at"] + job["seconds"]
        milliseconds: list[float] = []
        again = 0
        failed: dict[str, int] = {}
        while time.monotonic() < until:
            try:
                spent, begun_again = once()
            except NumaferryError as error:
                failed[error.message] = failed.get(error.message, 0) + 1
                self.give_back()
                continue
            milliseconds.append(spent * 1000)
            again += begun_again
        spent_s = time.monotonic() - job["at"]
        return {"ms": milliseconds, "per_s": len(milliseconds) / spent_s, "again": again, "failed": failed}


def main() -> None:
    """Answer jobs until standard input ends."""
    url, guest, number = sys.argv[1:]
    client = Client(url, guest, int(number))
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "keep":
            client.claim([POPULAR] if client.number % 2 else client.hosts, keep=True)
            answer = {}
        else:
            answer = client.run(job)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
