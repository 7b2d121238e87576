"""`numaferry serve`: a controller that runs on."""

from __future__ import annotations

import json
import signal
import sys
import threading

import click

from numaferry.cli.kit import Session, command_options, examples


@click.command()
@click.option("--name", default="", metavar="NAME", help="What it is called; by default this machine's name.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Migrations driven at once; 8 by default.")
@click.option(
    "--look-every", "look_s", type=click.FloatRange(1), metavar="SECONDS", help="How often hosts are looked at; 60."
)
@command_options
@examples(
    "numaferry serve",
    "numaferry serve --name east --parallel 4",
)
def serve(session: Session, name: str, parallel: int | None, look_s: float | None) -> None:
    """Run a controller: drive migrations that commands hand over, take over what others left, look at hosts.

    Several may share one ledger in PostgreSQL. It has no network face: commands reach it through the ledger. SIGTERM
    and Ctrl-C end it; jobs under way go on in libvirt, and the next controller takes them over.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())

    def say(sentence: str) -> None:
        click.echo(json.dumps({"sentence": sentence}, ensure_ascii=False) if session.json else sentence)
        sys.stdout.flush()

    session.ferry().serve(stop, say, name=name, parallel=parallel, look_s=look_s)
