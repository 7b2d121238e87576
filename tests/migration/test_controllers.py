"""Whether a controller is gone: looked up here, guessed by silence elsewhere."""

import os
import socket
import subprocess
import sys

import pytest

from numaferry.migration.controllers import SILENCE_S, is_gone, new_name, start_time


def test_this_process_is_not_gone_however_long_it_is_silent():
    assert not is_gone(new_name(), 1e9)


def test_a_process_that_ended_is_gone_at_once():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{socket.gethostname()}:{child.pid}:{start_time(child.pid)}"
    assert not is_gone(name, 0)
    child.communicate(b"\n")
    assert is_gone(name, 0)


def test_a_later_process_of_the_same_pid_is_another_one():
    assert is_gone(f"{socket.gethostname()}:{os.getpid()}:1", 0)


@pytest.mark.parametrize("controller", ["elsewhere:1:2", "nonsense", "a:b:c"])
def test_elsewhere_only_silence_speaks(controller):
    assert not is_gone(controller, SILENCE_S - 1, hostname="here")
    assert is_gone(controller, SILENCE_S + 1, hostname="here")


def test_a_migration_that_nobody_names_is_nobody_s_at_once():
    assert is_gone("", 0)


def test_two_engines_of_one_process_are_two_controllers_and_neither_is_gone():
    """The engine and the service had a format each, and the service took the engine's for one of another machine."""
    one, two = new_name(), new_name()
    assert one != two
    assert not is_gone(one, 1e9)
    assert not is_gone(two, 1e9)
