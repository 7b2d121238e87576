"""Whether a controller is known to have ended: looked up here, unknown elsewhere."""

import os
import subprocess
import sys

import pytest

from numaferry.migration.controllers import is_dead, name_of, new_name, place, start_time


def test_this_process_is_not_dead():
    assert not is_dead(new_name())


def test_a_process_that_ended_is_dead_at_once():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = name_of(child.pid, start_time(child.pid))
    assert not is_dead(name)
    child.communicate(b"\n")
    assert is_dead(name)


def test_a_later_process_of_the_same_pid_is_another_one():
    assert is_dead(name_of(os.getpid(), "1"))


@pytest.mark.parametrize("controller", ["elsewhere:1:2", "nonsense", "a:b:c", ""])
def test_of_one_elsewhere_nothing_is_known(controller):
    assert not is_dead(controller, where="here")


def test_two_engines_of_one_process_are_two_controllers_and_neither_is_dead():
    """The engine and the service had a format each, and the service took the engine's for one of another machine."""
    one, two = new_name(), new_name()
    assert one != two
    assert not is_dead(one)
    assert not is_dead(two)


def test_a_process_of_another_pid_namespace_or_boot_of_a_machine_of_this_name_is_not_called_dead():
    """Two clones of a machine share a name: each took the other for dead, and its migrations over."""
    here, gone = place(), f"{os.getpid()}:1"
    assert is_dead(f"{here}:{gone}")
    host, _, where = here.partition("/")
    boot, _, namespace = where.partition(".")
    assert not is_dead(f"{host}/{boot}.{namespace}0:{gone}")
    assert not is_dead(f"{host}/00000000.{namespace}:{gone}")
    assert not is_dead(f"{host}:{gone}")
