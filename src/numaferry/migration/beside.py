"""A call that blocks for as long as a job runs, and somebody who looks after the job meanwhile.

The engine does it in a thread; a simulation that has to be repeatable gives `Tools` a function that does it in turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Runs the call; looks about every so many seconds until it has ended; raises what either of them raises.
Beside = Callable[[Callable[[], None], Callable[[], object], float], None]


def in_thread(call: Callable[[], None], look: Callable[[], object], every_s: float) -> None:
    """Run `call` in a thread of its own and `look` beside it; what `look` raises leaves the call to itself."""
    worker = _Worker(call)
    worker.start()
    while not worker.ended.wait(every_s):
        look()
    worker.result()


class _Worker(threading.Thread):
    """The blocking call. A daemon thread: when the controller ends, the job goes on in libvirt."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(name="live-migration", daemon=True)
        self.ended = threading.Event()
        self._call = call
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  (raised again in the driver's thread by `result`)
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> None:
        """Raise what the call raised."""
        if self._error is not None:
            raise self._error
