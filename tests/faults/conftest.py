"""The stage for each kind of lab, and the matrix that the tests of this room write."""

from __future__ import annotations

import pytest

from faults.matrix import Cell, Matrix
from faults.stage import NAME, Play, Stage
from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, put_in_share

MAC = "52:54:00:00:0d:01"

#: On the two CPUs of the smallest machine: what is dedicated on one host is shared on the other, so a guest that moves
#: must change every pin it has.
NAMESPACES_SETS = {"alpha": ("0", "1"), "beta": ("1", "0")}
#: alpha has 2 cells x 2 cores x 2 threads, beta 2 cells x 4 cores.
HOSTS_SETS = {"alpha": ("1-3,5-7", "0,4"), "beta": ("1-7", "0")}


@pytest.fixture(scope="session")
def matrix():
    """What came of every fault; written to build/faults when the tests are over."""
    made = Matrix()
    yield made
    made.write()


class Stages:
    """Holds the stage of a module, and makes a new one where a test has left it broken."""

    def __init__(self, play, factory):
        self.play, self._factory = play, factory
        self._stage = None

    def whole(self):
        """Return a stage whose guest is well and idle."""
        if self._stage is not None and not self._stage.whole:
            self.close()
        if self._stage is None:
            self._stage = Stage(self.play, self._factory.mktemp("stage"))
        return self._stage

    def close(self):
        """Take it away."""
        if self._stage is not None:
            self._stage.close()
        self._stage = None


@pytest.fixture(scope="module")
def namespaces_stages(namespaces_lab, tmp_path_factory):
    """Stages on the namespaces lab: a small guest with one pinned vCPU and a macvtap."""
    alpha = namespaces_lab.hosts[0]
    guest = GuestSpec(
        name=NAME,
        image=put_in_share(namespaces_lab, "tiny"),
        serial=alpha.share / "faults.serial",
        cells=(GuestCell("0", 48, "0"),),
        vcpu_pins={0: "0"},
        emulator_pin="1",
        nics=(MacvtapNic(alpha.data_links[0], MAC),),
    )
    made = Stages(Play(lab=namespaces_lab, guest=guest, sets=NAMESPACES_SETS), tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hosts_stages(hosts_lab, tmp_path_factory):
    """Stages on the hosts lab: a guest of two cells in huge pages, each on a cell of its own."""
    alpha = hosts_lab.hosts[0]
    guest = GuestSpec(
        name=NAME,
        image=put_in_share(hosts_lab, "tiny"),
        serial=alpha.share / "faults.serial",
        domain_type=hosts_lab.guest_type,
        vcpus=2,
        cells=(GuestCell("0", 32, "0"), GuestCell("1", 16, "1")),
        vcpu_pins={0: "2", 1: "6"},
        emulator_pin="0,4",
        hugepages=True,
        nics=(MacvtapNic(alpha.data_links[0], MAC),),
    )
    made = Stages(Play(lab=hosts_lab, guest=guest, sets=HOSTS_SETS), tmp_path_factory)
    yield made
    made.close()


def played(stages):
    """The hosts with one guest that is well; the test before it may have left it on either host."""
    made = stages.whole()
    made.whole = False  # until `settled` has found that it is
    yield made
    made.controllers.end()


@pytest.fixture
def stage(namespaces_stages):
    """The stage on the namespaces lab."""
    yield from played(namespaces_stages)


@pytest.fixture
def hosts_stage(hosts_stages):
    """The stage on the hosts lab."""
    yield from played(hosts_stages)


@pytest.fixture
def cell(request, matrix):
    """The row of the matrix that this test writes; without an outcome it is written as not as expected."""
    lab = "hosts" if "hosts_stage" in request.fixturenames else "namespaces"
    made = Cell(test=request.node.nodeid.rpartition("/")[2], lab=lab)
    yield made
    matrix.add(made)
