"""Bringing a lab up and down: one change at a time, cleaning up first whatever an earlier one left behind.

::

    up    lock ─► is it up already? ─► tear down remains ─► build (its kind's maker) ─► lab.json
                                                             └ on any error: tear down, keep the logs, print their path
    down  lock ─► tear down ─► remove the directory

`lab.json` is written last and removed first: where it exists, the lab was complete once.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from typing import TYPE_CHECKING, Protocol, cast

from attrs import frozen

from numaferry.errors import Conflict, NeedsPerson, NotFound, NumaferryError
from numaferry.lab import model
from numaferry.lab.journal import Journal
from numaferry.lab.network import new_id
from numaferry.lab.place import DEFAULT_NAME, lab_directory, locked
from numaferry.lab.resources import make_directory, teardown
from numaferry.lab.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numaferry.lab.model import Kind, Lab

JOURNAL_NAME = "journal.jsonl"
WORK_NAME = "run"
FAILED_NAME = "failed"

# the module of each kind; imported when asked for, since a machine may lack what one of them needs
MAKERS: Mapping[Kind, str] = {"hosts": "numaferry.lab.hosts", "namespaces": "numaferry.lab.namespaces"}


class Maker(Protocol):
    """What the module of a kind offers."""

    DEFAULT_NOTATIONS: Sequence[str]

    def check(self, notations: Sequence[str]) -> None:
        """Raise InvalidInput or EnvironmentLacking before anything is made, when this can't work here."""

    def build(self, site: Site, notations: Sequence[str]) -> Lab:
        """Make the hosts below `site.directory`, everything by `site.journal`, and return when libvirt answers."""


@frozen
class Status:
    """What is true of a lab now: `state` is down, up, broken (some hosts died) or remains (an unfinished `up`)."""

    name: str
    directory: Path
    state: str
    lab: Lab | None
    outstanding: int


def _maker(kind: Kind) -> Maker:
    return cast("Maker", importlib.import_module(MAKERS[kind]))


def _quiet(_: str) -> None:
    pass


def status(name: str = DEFAULT_NAME, directory: Path | None = None) -> Status:
    """Tell what is there, from the journal, `lab.json` and the processes themselves; changes nothing."""
    where = directory or lab_directory(name)
    outstanding = Journal(where / JOURNAL_NAME).outstanding()
    try:
        lab = model.load(where)
    except NotFound:
        lab = None
    if lab is None:
        state = "remains" if outstanding else "down"
    else:
        state = "up" if all(host.alive for host in lab.hosts) else "broken"
    return Status(name=name, directory=where, state=state, lab=lab, outstanding=len(outstanding))


def up(
    kind: Kind = "hosts",
    *,
    name: str = DEFAULT_NAME,
    directory: Path | None = None,
    notations: Sequence[str] = (),
    say: Callable[[str], None] = _quiet,
) -> Lab:
    """Bring a lab of `kind` up and return it; one that is up already, with the same hosts, is returned as it is.

    `notations` describes the hosts, one each; without, a lab that is up is taken as it is, a new one gets its kind's
    default. Raises Conflict when another lab is in the
    same place or is just being changed, EnvironmentLacking when the machine can't carry it.
    """
    maker = _maker(kind)
    wanted = tuple(notations) or tuple(maker.DEFAULT_NOTATIONS)
    where = (directory or lab_directory(name)).absolute()
    with locked(where):
        now = status(name, where)
        if now.state == "up" and now.lab is not None:
            return _same(now.lab, kind, tuple(notations))
        maker.check(wanted)
        if now.state != "down":
            say(f"cleaning up what an earlier lab left in {where}")
        _clear(where)
        return _build(maker, name, where, wanted, say)


def _same(lab: Lab, kind: Kind, asked: tuple[str, ...]) -> Lab:
    made = tuple(host.notation for host in lab.hosts)
    asked = tuple(" ".join(notation.split()) for notation in asked)
    if lab.kind != kind or asked not in ((), made):
        raise Conflict(
            f"another lab is up in {lab.directory}: {lab.kind}, {' | '.join(made)}",
            hint="numaferry lab down, or another --name",
        )
    return lab


def _build(maker: Maker, name: str, where: Path, wanted: Sequence[str], say: Callable[[str], None]) -> Lab:
    journal = Journal(where / JOURNAL_NAME)
    shutil.rmtree(where / FAILED_NAME, ignore_errors=True)
    site = Site(
        name=name,
        directory=make_directory(journal, where / WORK_NAME),
        lab_id=new_id(),
        journal=journal,
        listener=say,
    )
    try:
        lab = maker.build(site, wanted)
        model.save(lab)
    except BaseException as error:  # a Ctrl-C leaves nothing behind either
        kept = _keep_logs(site.directory, where / FAILED_NAME)
        _clear(where)
        with contextlib.suppress(OSError):  # whoever listened may be gone: a closed pipe is one way to get here
            site.say(f"failed, torn down; logs kept in {kept}")
        if isinstance(error, NumaferryError):
            error.hint = f"{error.hint + '; ' if error.hint else ''}logs: {kept}"
        raise
    return lab


def down(*, name: str = DEFAULT_NAME, directory: Path | None = None, say: Callable[[str], None] = _quiet) -> bool:
    """Bring the lab down, or clean up what is left of one; return whether there was anything to do.

    Raises Conflict while it is being changed, NeedsPerson when something refuses to go (it stays recorded: try again).
    """
    where = (directory or lab_directory(name)).absolute()
    if not where.exists():
        return False
    with locked(where):
        was = status(name, where)
        _clear(where)
        if was.state != "down":
            say(f"lab {name} is down: {was.outstanding} resources released")
        return was.state != "down"


def _clear(where: Path) -> None:
    """Release everything that the journal in `where` knows of."""
    (where / model.FILE_NAME).unlink(missing_ok=True)
    journal = Journal(where / JOURNAL_NAME)
    if refused := teardown(journal):
        raise NeedsPerson(
            f"{len(refused)} resources of the lab in {where} refuse to go: {'; '.join(refused)}",
            hint="see to them, then numaferry lab down",
        )
    journal.remove()


def _keep_logs(work: Path, kept: Path) -> Path:
    """Copy every log below `work` to `kept`, by names that tell the host, and return `kept`."""
    kept.mkdir(mode=0o700, exist_ok=True)
    for log in sorted(work.rglob("*.log")):
        shutil.copyfile(log, kept / "-".join(log.relative_to(work).parts))
    return kept
