"""Nothing is undocumented: every command has an example, and docs/cli.md names every command, option and exit code."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import click
import pytest

from numaferry import errors
from numaferry.cli.app import root
from numaferry.cli.exits import EXIT_CODES
from numaferry.ledger.upgrades import LedgerUpgrade
from numaferry.migration.progress import Progress
from numaferry.model import JobInfo
from numaferry.service import views
from numaferry.service.config import parse

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def commands(command=root, words=()):
    """Every command that is no group, by its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))
    else:
        yield " ".join(words), command


ALL = dict(commands())


def section(name):
    found = re.search(rf"(?ms)^## {re.escape(name)}\n(.*?)(?=^## |\Z)", PAGE)
    assert found, f"docs/cli.md has no section {name!r}"
    return found[1]


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_an_example_that_calls_it(name):
    help_text = ALL[name].get_help(click.Context(ALL[name]))
    example = help_text.partition("For example:\n")[2]
    assert f"numaferry {name}" in example


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_on_the_page(name):
    words = section(name)
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option) and parameter.name != "form":
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{option}`" in words, f"docs/cli.md does not name {option} of {name}"


def test_the_page_names_no_command_that_is_none():
    titles = set(re.findall(r"(?m)^## ([a-z][a-z -]*)$", PAGE))
    assert titles == set(ALL)


@pytest.mark.parametrize(
    "name", [name for name, command in ALL.items() if "-f" in {o for p in command.params for o in p.opts}]
)
def test_what_json_prints_is_on_the_page(name):
    assert "`-f json`:" in section(name)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("scan", views.ScanReport),
        ("host list", views.HostLine),
        ("host show", views.HostShow),
        ("instance list", views.InstanceLine),
        ("instance show", views.InstanceShow),
        ("instance adopt", views.AdoptLine),
        ("migrate", views.Plan),
        ("migration list", views.MigrationLine),
        ("migration show", views.MigrationShow),
        ("migration watch", views.WatchLine),
        ("migration watch", Progress),
        ("migration watch", JobInfo),
        ("migration recover", views.Recovered),
        ("explain", views.Explanation),
        ("audit", views.AuditReport),
        ("ledger explain", views.LedgerExplanation),
        ("ledger upgrade", LedgerUpgrade),
    ],
)
def test_every_json_key_is_on_the_page(name, cls):
    for field in attrs.fields(cls):
        assert f"`{field.name}`" in section(name), f"docs/cli.md does not name {field.name} of {name}"


def test_every_command_that_answers_takes_a_format():
    silent = {"lab up", "lab exec", "lab down"}
    without = {name for name, command in ALL.items() if "-f" not in {o for p in command.params for o in p.opts}}
    assert without == silent


def test_every_error_has_an_exit_code_that_is_told_in_help_and_on_the_page():
    tree = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.NumaferryError)]
    assert {cls.exit_code for cls in tree} <= set(EXIT_CODES)
    help_text = root.get_help(click.Context(root))
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in PAGE
        assert re.search(rf"(?m)^\s+{code}\s+{re.escape(meaning)}$", help_text)


def test_help_is_quick():
    """Half a second is what a person does not notice; CPU time is measured, since the machine may be busy."""
    taken = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "numaferry", "--help"], check=True, capture_output=True, timeout=30)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0 < min(taken) < 0.5


@pytest.mark.parametrize("module", ["sqlalchemy", "pydantic", "libvirt", "rich.progress", "lxml", "numaferry.fit"])
def test_help_imports_nothing_heavy(module):
    code = "import sys; from numaferry.cli.app import run; run(['--help']); sys.exit(sys.argv[1] in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0


def test_the_hosts_file_of_the_page_is_valid():
    (entry,) = parse(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1], where="docs/cli.md")
    assert entry.name == "host-a"
