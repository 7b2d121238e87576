"""Up and down, with a kind of lab made for these tests: it makes one directory and one process."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from numaferry.errors import Conflict, HostUnreachable, NotFound
from numaferry.lab import control, load
from numaferry.lab.access import NamespaceAccess
from numaferry.lab.model import Lab, LabHost
from numaferry.lab.processes import spawn
from numaferry.lab.site import Site


class Maker(ModuleType):
    """A kind of lab; `fault` is raised in the middle of building."""

    DEFAULT_NOTATIONS = ("one host",)
    fault: BaseException | None = None
    built = 0

    def check(self, notations: Sequence[str]) -> None:
        """Everything will do."""

    def build(self, site: Site, notations: Sequence[str]) -> Lab:
        """Make a host per notation."""
        self.built += 1
        site.say("building")
        process = spawn(site.journal, ["sleep", "60"], log=site.directory / "host.log")
        (site.directory / "host.log").write_text("last words\n", encoding="utf-8")
        if self.fault:
            raise self.fault
        made = [
            LabHost(
                name=f"h{number}",
                uri="test:///default",
                ip="192.0.2.1",
                data_links=("x",),
                bridges=(),
                share=site.directory,
                notation=text,
                process=process,
                access=NamespaceAccess(process),
            )
            for number, text in enumerate(notations)
        ]
        return Lab(
            kind="hosts",
            name=site.name,
            directory=site.directory.parent,
            lab_id=site.lab_id,
            netns="",
            outer_ip="",
            share=site.directory,
            accelerator="none",
            hosts=tuple(made),
        )


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = Maker("maker")
    monkeypatch.setitem(sys.modules, "maker", made)
    monkeypatch.setattr(control, "MAKERS", {"hosts": "maker"})
    return made


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lab"
    control.down(directory=tmp_path / "lab")


def test_up_twice_builds_once_and_down_twice_takes_down_once(maker: Maker, where: Path) -> None:
    lab = control.up(directory=where)
    assert control.up(directory=where) == lab == load(where)
    assert maker.built == 1
    assert control.down(directory=where) is True
    assert control.down(directory=where) is False
    assert not where.exists()


def test_a_lab_is_not_taken_for_one_with_other_hosts(maker: Maker, where: Path) -> None:
    control.up(directory=where, notations=["a"])
    assert control.up(directory=where, notations=["a "]).host("h0")
    with pytest.raises(Conflict, match="another lab is up"):
        control.up(directory=where, notations=["a", "b"])


@pytest.mark.parametrize("fault", [HostUnreachable("no answer"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_whatever_ends_up_leaves_only_the_logs(maker: Maker, where: Path, fault: BaseException) -> None:
    maker.fault = fault
    with pytest.raises(type(fault)):
        control.up(directory=where)
    assert control.status(directory=where).state == "down"
    assert [path.name for path in where.iterdir()] == ["failed"]
    assert (where / "failed/host.log").read_text(encoding="utf-8") == "last words\n"


def test_the_hint_tells_where_the_logs_are(maker: Maker, where: Path) -> None:
    maker.fault = HostUnreachable("no answer", hint="look")
    with pytest.raises(HostUnreachable) as caught:
        control.up(directory=where)
    assert caught.value.hint == f"look; logs: {where / 'failed'}"


def test_a_listener_that_went_away_does_not_stop_the_cleaning_up(maker: Maker, where: Path) -> None:
    def closed_pipe(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        control.up(directory=where, say=closed_pipe)
    assert control.status(directory=where).state == "down"


def test_a_host_that_died_makes_the_lab_broken_and_up_makes_it_anew(maker: Maker, where: Path) -> None:
    control.up(directory=where)
    process = control.up(directory=where).hosts[0].process
    os.kill(process.pid, 9)
    os.waitpid(process.pid, 0)
    assert control.status(directory=where).state == "broken"
    assert control.up(directory=where).hosts[0].process != process
    assert maker.built == 2


def test_a_host_that_is_not_there_is_told_with_those_that_are(maker: Maker, where: Path) -> None:
    lab = control.up(directory=where, notations=["a", "b"])
    with pytest.raises(NotFound, match="no host 'x'") as caught:
        lab.host("x")
    assert caught.value.hint == "it has h0, h1"
