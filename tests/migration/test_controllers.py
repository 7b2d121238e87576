"""Whether a controller is known to have ended: looked up here, unknown elsewhere."""

import os
import socket
import subprocess
import sys

import pytest

from numaferry.migration.controllers import is_dead, new_name, start_time


def test_this_process_is_not_dead():
    assert not is_dead(new_name())


def test_a_process_that_ended_is_dead_at_once():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{socket.gethostname()}:{child.pid}:{start_time(child.pid)}"
    assert not is_dead(name)
    child.communicate(b"\n")
    assert is_dead(name)


def test_a_later_process_of_the_same_pid_is_another_one():
    assert is_dead(f"{socket.gethostname()}:{os.getpid()}:1")


@pytest.mark.parametrize("controller", ["elsewhere:1:2", "nonsense", "a:b:c", ""])
def test_of_one_elsewhere_nothing_is_known(controller):
    assert not is_dead(controller, hostname="here")


def test_two_engines_of_one_process_are_two_controllers_and_neither_is_dead():
    """The engine and the service had a format each, and the service took the engine's for one of another machine."""
    one, two = new_name(), new_name()
    assert one != two
    assert not is_dead(one)
    assert not is_dead(two)
