"""The documents are true where a machine can tell: links, commands, tests, error codes, generated parts, paths."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from numaferry import errors
from numaferry.cli.app import root
from numaferry.cli.exits import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")])
SOURCES = sorted((ROOT / "src" / "numaferry").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"(?ms)^```[a-z]*\n(.*?)^```$")

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def tool(name):
    """Load a script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# what can't be overlooked


def test_the_first_screen_says_what_it_is_the_two_commands_and_what_was_tried():
    first = README[: README.index("\n## ")]
    for words in ("make demo", "make test", "Debian 12", "Not tried", "openstack-dev"):
        assert words in first, words


def test_the_readme_has_a_recorded_run_of_the_demo():
    run = README.partition("<!-- demo:begin -->")[2].partition("<!-- demo:end -->")[0]
    assert "PROOF 1:" in run
    assert "$ numaferry migrate db1" in run


def test_the_words_that_mean_something_else_to_nova_people_are_explained():
    for word in ("**claim**", "**ledger**", "**NUMA cell**"):
        assert README.count(word) == 1, word
    assert "cells v2" in README


# links and paths


@page
def test_every_relative_link_leads_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        where, _, anchor = link.partition("#")
        there = (path.parent / where).resolve() if where else path
        assert there.exists(), link
        assert ROOT in there.parents, link
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), link


@page
def test_no_page_names_a_path_of_somebody_s_machine_or_a_package_index(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(
        r"(?<![\w.~])/(?:work|home|root|Users)/\S*|\S*(?:index-url|pypi\.|artifactory|/simple/)\S*", text
    )
    assert not found


@page
def test_every_file_that_is_mentioned_exists(path):
    for file in re.findall(
        r"`((?:src|tools|tests|docs|benchmarks|changelog\.d)/[\w/.+-]*)`", path.read_text(encoding="utf-8")
    ):
        assert (ROOT / file).exists(), file


ROOMS = "model|request|fit|ledger|virt|scheduler|migration|audit|service|cli|lab|demo|errors"


@page
def test_every_dotted_name_of_ours_can_be_imported(path):
    for name in re.findall(rf"`(?:numaferry\.)?((?:{ROOMS})(?:\.\w+)+)(?:\(\))?`", path.read_text(encoding="utf-8")):
        parts, found = name.split("."), importlib.import_module("numaferry")
        for at, part in enumerate(parts, start=1):
            if not hasattr(found, part):
                importlib.import_module(".".join(["numaferry", *parts[:at]]))
            found = getattr(found, part)


# tests and commands


@page
def test_every_test_that_is_mentioned_exists(path):
    for file, function in re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", path.read_text(encoding="utf-8")):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"(?m)^def {function}\(", text), f"{file} has no {function}"


def commands(text):
    """The `numaferry ...` lines of a page's code blocks and inline code, as lists of words."""
    lines = [line.strip() for block in FENCE.findall(text) for line in block.splitlines()]
    lines += re.findall(r"`(numaferry [^`]+)`", FENCE.sub("", text))
    for line in lines:
        words = re.sub(r"^\$ ", "", line).partition("  #")[0]
        # `a|b` stands for several commands, ... for more of the same, [x] for what may be left out
        if words.startswith("numaferry ") and not re.search(r"[|\[]|^numaferry demo:", words):
            yield shlex.split(words.replace("...", "").rstrip("& "))[1:]


@page
def test_every_command_that_is_shown_can_be_given(path):
    for words in commands(path.read_text(encoding="utf-8")):
        command, context = root, click.Context(root)
        while words and isinstance(command, click.Group) and not words[0].startswith("-"):
            name = words.pop(0)
            command = command.get_command(context, name)
            assert command is not None, name
            context = click.Context(command, info_name=name, parent=context)
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        mine = words[: words.index("--")] if "--" in words else words
        used = {word.partition("=")[0] for word in mine if word.startswith("-")}
        assert used <= options | {"--help", "-h"}, words


def test_commands_are_found():
    found = list(commands(README))
    assert ["scan", "qemu+ssh://root@alpha/system", "qemu+ssh://root@beta/system"] in found
    assert ["migrate", "db1", "--dest", "beta", "--dry-run"] in found


# errors


def codes():
    """Every code that an error of ours may carry, by the file that gives it."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(keywords=keywords, func=function, args=arguments):
                    given = [word.value for word in keywords if word.arg == "code"]
                    if isinstance(function, ast.Name) and function.id in {"invalid", "_forbidden"}:
                        given += arguments[:1]
                case ast.Assign(targets=[ast.Name(id="code")], value=value):
                    given = [value]
                case _:
                    continue
            found |= {one.value: path.name for one in given if isinstance(one, ast.Constant) and one.value}
    return found


def test_codes_are_found():
    assert {"foreign-ledger", "taken-over", "PciInvalidAlias", "no-fit", "RealtimeMaskNotFoundOrInvalid"} <= set(
        codes()
    )


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_error_code_is_described(code):
    assert f"`{code}`" in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def test_every_exit_code_is_described():
    given = {one.exit_code for one in tool("make_diagrams").error_classes()}
    assert given <= set(EXIT_CODES)
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert {int(cell) for cell in re.findall(r"\| (\d+) \|", text)} >= given
    assert "docs/errors.md" in README
    assert "docs/cli.md" in README


def test_the_drawn_tree_of_errors_has_every_class():
    drawn = errors.__doc__ or ""
    for one in tool("make_diagrams").error_classes():
        assert re.search(rf"\b{one.__name__}\b", drawn), one.__name__


# generated parts


def test_generated_parts_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_diagrams.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_part_that_is_behind_is_found_out():
    make = tool("make_diagrams")
    text = "a\n<!-- generated:x -->\nold\n<!-- end:x -->\nb\n"
    assert make.updated(text, {"x": lambda: "new"}, "page") == text.replace("old", "new")
    with pytest.raises(ValueError, match="0 blocks"):
        make.updated("no marks", {"x": lambda: "new"}, "page")


def test_a_recording_keeps_every_line_but_long_runs_of_progress():
    record = tool("record_demo")
    progress = [f"  migration 1: running live_migration, {n} %" for n in range(9)]
    lines = record.shortened("\n".join(["$ a", *progress, "b in /home/x/lab"]), "/home/x")
    assert lines == ["$ a", progress[0], "  …", progress[8], "b in ~/lab"]
    assert record.shortened("\n".join(progress[:3]), "/home/x") == progress[:3]


def test_release_notes_have_every_kind_that_the_thread_asks_for():
    kinds = {path.name.split(".")[1] for path in (ROOT / "changelog.d").glob("*.md")}
    assert kinds >= {"feature", "upgrade", "issue"} or (ROOT / "CHANGELOG.md").exists()
