"""The bridge between the caller of several Ray Train workers and rank 0, and how often the workers may start again.

Ray Train starts all workers again after a death, but counts in one number what differs: a process that died (a failure:
`max_failures` of them), one that was lost with its node or whose node was announced to go (none, as long as there are
reports in between), workers that start again with a smaller micro-batch, and a change of their number (neither). So it
is told to start again in any case, and rank 0 asks here whether that is worth it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train import UserCallback

from raytune_m2f.launch.nodes import MOST_LOSSES
from raytune_m2f.training.reports import Report


class Bridge:
    """An actor that hands reports of rank 0 to the caller and the caller's answers back."""

    def __init__(self, max_failures: int = 0) -> None:
        self._attempts_left = max_failures
        self._losses = 0
        self._nodes: list[str] = []
        self._failed = False
        self._again = False
        self._reports: asyncio.Queue[tuple[Report, asyncio.Future[bool]]] = asyncio.Queue()
        self._asked: asyncio.Future[bool] | None = None
        self._error: tuple[Exception | None, str] | None = None

    async def report(self, report: Report) -> bool:
        """Called by rank 0; returns the caller's answer."""
        self._losses = 0
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._reports.put((report, answer))
        return await answer

    async def next_report(self, timeout: float) -> Report | None:
        """Called by the caller; None if there is none within `timeout` seconds."""
        try:
            report, self._asked = await asyncio.wait_for(self._reports.get(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            return None
        return report

    async def answer(self, stop: bool) -> None:
        """Answer the report that `next_report` gave."""
        assert self._asked is not None
        self._asked.set_result(stop)

    async def failed(self) -> None:
        """Called by Ray Train's controller: a worker has died or raised an error."""
        self._failed = True

    async def failed_on(self) -> list[str]:
        """The nodes of the workers of which one has failed; none if none has, or if it is known why."""
        known = self._again or (self._error is not None and self._error[0] is not None)
        return self._nodes if self._failed and not known else []

    async def begin(self, nodes: list[str], lost: bool = False) -> bool:
        """Called by rank 0 as the workers start (again) on `nodes`; False if they would fail again.

        `lost` says that one of the `failed_on` nodes is gone, which counts as no failure.
        """
        if self._error is not None and self._error[0] is not None:
            return False
        if self._failed and not self._again:
            if lost:
                self._losses += 1
            else:
                self._attempts_left -= 1
        if self._attempts_left < 0 or self._losses > MOST_LOSSES:
            lasting = f"its nodes were lost {self._losses} times in a row without a report in between"
            self._error = (None, lasting) if self._losses > MOST_LOSSES else self._error or (None, "its process died")
            return False
        self._error, self._again, self._failed, self._nodes = None, False, False, nodes
        return True

    async def note_error(self, ours: Exception | None, text: str, again: bool = False) -> None:
        """The first error is the cause, from which lost connections of others follow; `again`: it is no failure."""
        if self._error is None:
            self._error, self._again = (ours, text), again

    async def error(self) -> tuple[Exception | None, str] | None:
        """Why the workers ended, in words, with the error itself if it is ours; None if all is well."""
        return self._error


class TellFailures(UserCallback):  # type: ignore[misc]  # Ray is not typed
    """In Ray Train's controller, which alone can tell a death from a change of the workers' number."""

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ray.get(self._bridge.failed.remote())
