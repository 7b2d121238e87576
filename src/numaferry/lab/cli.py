"""The commands of the lab: `up`, `status`, `exec`, `down`; no decisions here."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, get_args

import click

from numaferry.lab import control, model
from numaferry.lab.place import DEFAULT_NAME, lab_directory

if TYPE_CHECKING:
    from collections.abc import Callable

_name = click.option(
    "--name", default=DEFAULT_NAME, show_default=True, help="Which lab: several may be up side by side."
)


@click.group()
def lab() -> None:
    """Real hosts on this one machine: libvirt, QEMU and NUMA, for the demo, the tests and for trying things out."""


def _say(line: str) -> None:
    click.echo(line, err=True)


def _examples(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Append an example to a command's help, its lines kept as they are."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        function.__doc__ = f"{function.__doc__}\n\n\b\nFor example:\n  {text}"
        return function

    return add


@lab.command()
@click.option(
    "--kind",
    type=click.Choice(get_args(model.Kind)),
    default="hosts",
    show_default=True,
    help="QEMU machines with real NUMA, or libvirtds in namespaces.",
)
@click.option(
    "--host", "notations", multiple=True, metavar="NOTATION", help="One host's topology; repeat it, at least twice."
)
@_name
@_examples("numaferry lab up --host '2 cells x 2 cores x 2 threads, 1536M, 2M:128' --host '2 cells x 4 cores, 1G'")
def up(kind: model.Kind, notations: tuple[str, ...], name: str) -> None:
    """Bring a lab up; the one that is up already is left alone."""
    made = control.up(kind, name=name, notations=notations, say=_say)
    for host in made.hosts:
        click.echo(f"{host.name}  {host.uri}  {host.notation}")


def _condition(host: model.LabHost) -> str:
    if not host.alive:
        return "DIED"
    return "libvirt answers" if host.answers() else "runs, but libvirt DOES NOT ANSWER"


@lab.command()
@_name
@click.option("--format", "-f", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_examples("numaferry lab status -f json")
def status(name: str, form: str) -> None:
    """Tell what is true of a lab: down, up, broken (a host died) or remains (an `up` that never finished)."""
    now = control.status(name)
    hosts = [] if now.lab is None else now.lab.hosts
    if form == "json":
        told = {
            "name": now.name,
            "state": now.state,
            "directory": str(now.directory),
            "kind": now.lab and now.lab.kind,
            "hosts": [
                {
                    "name": host.name,
                    "uri": host.uri,
                    "alive": host.alive,
                    "libvirt": host.answers(),
                    "notation": host.notation,
                }
                for host in hosts
            ],
        }
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(
        f"lab {now.name}: {now.state}"
        + (f" ({now.lab.kind}, {now.lab.accelerator})" if now.lab else "")
        + f", in {now.directory}"
    )
    for host in hosts:
        click.echo(f"{host.name}  {host.uri}  {_condition(host)}  {host.notation}")


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds the command may take.")
@_name
@_examples("numaferry lab exec alpha -- virsh list --all")
def execute(host: str, command: tuple[str, ...], timeout_s: float, name: str) -> None:
    """Run a command as root inside a host; a single word is given to the host's shell. Its exit code is this one's."""
    result = (
        model.load(lab_directory(name))
        .host(host)
        .exec(command[0] if len(command) == 1 else shlex.join(command), timeout_s)
    )
    click.echo(result.output, nl=False)
    sys.exit(result.exit_code)


@lab.command()
@_name
@_examples("numaferry lab down --name default")
def down(name: str) -> None:
    """Bring a lab down, or clean up what a crash left of it; nothing is left behind."""
    if not control.down(name=name, say=_say):
        click.echo(f"lab {name} is down already")
