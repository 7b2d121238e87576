"""`[limits]` of the configuration file."""

import pytest

from numaferry.errors import InvalidInput
from numaferry.model import Limits, PolicyWish
from numaferry.service.policies import configured, configured_limits


def test_without_a_file_two_go_from_and_to_each_host(tmp_path):
    assert configured_limits(tmp_path / "none.toml") == Limits(2, 2, 0)


def test_what_is_said_stands_beside_the_policy(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[limits]\nper_source = 1\nfleet = 9\n[migration]\ntls = true\n", encoding="utf-8")
    assert configured_limits(path) == Limits(1, 2, 9)
    assert configured(path) == PolicyWish.of(tls=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\nper_host = 1\n", ["unknown key 'per_host'", "per_source"]),
        ("[limits]\nper_dest = 65\n", ["per_dest = 65", "64"]),
        ("[limits]\nfleet = -1\n", ["fleet = -1"]),
        ("[limits]\nper_source = '2'\n", ["per_source = '2'"]),
        ("[limit]\nfleet = 1\n", ["unknown table or key 'limit'", "[limits]"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        configured_limits(path)
    told = f"{caught.value.message} {caught.value.hint}"
    assert "config.toml" in told
    assert all(word in told for word in words), told
