"""The changelog check refuses what towncrier would silently drop."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "check_changelog.py"


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location("check_changelog", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "text", "bad"),
    [("a.feature.md", "x", 0), ("a.feature.md", "  ", 1), ("a.md", "x", 1), ("a.features.md", "x", 1)],
)
def test_fragment_names_and_texts_are_checked(check, tmp_path, name, text, bad):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(check.misnamed(tmp_path, check.fragment_types())) == bad


def test_the_types_are_those_of_pyproject(check):
    assert check.fragment_types() == {"feature", "upgrade", "issue", "fix"}
