"""The private files of a namespace host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from numaferry.lab.namespaces_files import ACCOUNTS, with_accounts

lines = st.lists(st.from_regex(r"[a-z]{1,8}:x:[0-9]{1,4}:", fullmatch=True), max_size=5)


@given(existing=lines)
def test_adding_accounts_keeps_what_is_there_and_is_idempotent(existing: list[str]) -> None:
    once = with_accounts("\n".join(existing), ACCOUNTS["group"])
    assert once.splitlines()[: len(existing)] == existing
    assert with_accounts(once, ACCOUNTS["group"]) == once


def test_an_account_of_the_machine_wins_over_the_labs() -> None:
    assert with_accounts("kvm:x:104:\n", ACCOUNTS["group"]).count("kvm:") == 1
