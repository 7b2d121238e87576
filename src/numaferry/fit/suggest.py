"""What would make it fit, said only after it was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.fit.floating import Total
    from numaferry.fit.question import Question
    from numaferry.model import HostState, NumaRequest


def suggestions(_question: Question) -> tuple[str, ...]:
    """Return true sentences of the form "fits if ..."."""
    return ()


def floating_suggestions(_host: HostState, _request: NumaRequest, _short: Sequence[Total]) -> tuple[str, ...]:
    """Return true sentences for a guest without cells."""
    return ()
