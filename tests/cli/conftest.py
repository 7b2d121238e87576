"""Fixtures of the command line's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

from numaferry.virt.simulated import Fleet

# Tests are imported by path: the helper beside them is loaded once under a name of its own.
_SPEC = importlib.util.spec_from_file_location("cli_world", Path(__file__).with_name("world.py"))
cli_world = importlib.util.module_from_spec(_SPEC)
sys.modules["cli_world"] = cli_world
_SPEC.loader.exec_module(cli_world)


@pytest.fixture
def world(tmp_path):
    fleet = Fleet("cli", seed=1)
    fleet.add_host("alpha", cli_world.TOPOLOGY, links=("ens3",))
    fleet.add_host("beta", cli_world.TOPOLOGY, links=("enp7s0",))
    yield cli_world.World(fleet, tmp_path)
    fleet.close()
