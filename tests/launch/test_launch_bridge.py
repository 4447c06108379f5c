"""What counts as a failure of several workers, without Ray."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from patience import PATIENCE_S

from raytune_m2f.errors import DatasetError
from raytune_m2f.launch.bridge import Bridge
from raytune_m2f.launch.nodes import MOST_LOSSES

NODES = ["a", "b"]


def test_each_report_gets_its_own_answer() -> None:
    async def talk() -> None:
        bridge = Bridge()
        assert await bridge.next_report(0.01) is None
        for iteration, stop in ((10, False), (20, True)):
            asked = asyncio.ensure_future(bridge.report({"iteration": iteration}))
            assert await bridge.next_report(PATIENCE_S) == {"iteration": iteration}
            await bridge.answer(stop)
            assert await asked is stop

    asyncio.run(talk())


def test_the_first_error_is_kept_and_forgotten_for_a_new_attempt() -> None:
    async def talk() -> None:
        bridge = Bridge(max_failures=1)
        assert await bridge.begin(NODES) is True
        await bridge.note_error(None, "rank 1: out of memory")
        await bridge.note_error(None, "rank 0: connection closed by peer")
        await bridge.failed()
        assert await bridge.error() == (None, "rank 1: out of memory")
        assert await bridge.begin(NODES) is True  # worth another attempt
        error = DatasetError("label 9")
        await bridge.note_error(error, "rank 1: label 9")
        await bridge.failed()
        assert await bridge.failed_on() == []  # it is known why
        assert await bridge.begin(NODES) is False  # it would fail again
        assert await bridge.error() == (error, "rank 1: label 9")

    asyncio.run(talk())


def test_deaths_count_and_smaller_micro_batches_do_not() -> None:
    async def talk() -> None:
        bridge = Bridge(max_failures=1)
        assert await bridge.begin(NODES) is True
        for _ in range(3):
            await bridge.note_error(None, "rank 1: StartAgain", again=True)
            await bridge.note_error(None, "rank 0: connection closed by peer")
            await bridge.failed()
            assert await bridge.failed_on() == []
            assert await bridge.begin(NODES) is True
            assert await bridge.error() is None
        await bridge.failed()
        assert await bridge.begin(NODES) is True  # a worker died without a word: the one retry
        await bridge.failed()
        assert await bridge.begin(NODES) is False
        assert await bridge.error() == (None, "its process died")

    asyncio.run(talk())


def test_another_number_of_workers_is_no_failure() -> None:
    async def talk() -> None:
        bridge = Bridge(max_failures=0)
        for nodes in (["a"], NODES, ["b"]):
            assert await bridge.begin(nodes) is True  # Ray Train told of no failure in between
            await bridge.note_error(None, "rank 0: connection closed by peer")
        assert await bridge.failed_on() == []

    asyncio.run(talk())


def test_lost_nodes_are_no_failure_as_long_as_there_are_reports_in_between() -> None:
    async def lose(bridge: Bridge) -> bool:
        await bridge.note_error(None, "rank 0: connection closed by peer")
        await bridge.failed()
        assert await bridge.failed_on() == NODES
        return await bridge.begin(NODES, True)

    async def talk() -> None:
        bridge = Bridge(max_failures=0)
        assert await bridge.begin(NODES) is True
        for _ in range(MOST_LOSSES):
            assert await lose(bridge) is True
        asked = asyncio.ensure_future(bridge.report({"iteration": 10}))
        await bridge.next_report(PATIENCE_S)
        await bridge.answer(False)
        await asked
        for _ in range(MOST_LOSSES):
            assert await lose(bridge) is True
        assert await lose(bridge) is False
        error = await bridge.error()
        assert error is not None
        assert "without a report in between" in error[1]

    asyncio.run(talk())


def test_its_process_does_not_import_torch() -> None:
    """Each trial of several workers has one, which only waits."""
    code = "import sys, raytune_m2f.launch.bridge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
