"""Progress: rate, time left, and no more lines than asked for; by a clock that is set, not waited for."""

from __future__ import annotations

import io
import logging
import threading
from pathlib import Path

import pytest
from rich.console import Console

from raytune_m2f.progress import (
    FILE,
    Bar,
    Lines,
    Pace,
    ProgressFile,
    Told,
    described,
    duration,
    following,
    heartbeat,
    nobody,
    read_progress,
    still,
)


class Clock:
    """Shows what it is set to [s]."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rate_and_time_left_count_from_the_first_call(clock: Clock) -> None:
    pace = Pace(clock)
    assert pace.at(50, 100) == (None, None)  # a run that goes on: the first 50 were not done now
    clock.now += 10
    assert pace.at(70, 100) == (2.0, 15.0)


def test_work_that_starts_again_is_measured_anew(clock: Clock) -> None:
    pace = Pace(clock)
    pace.at(80, 100)
    clock.now += 10
    assert pace.at(20, 100) == (None, None)
    clock.now += 10
    assert pace.at(30, 100) == (1.0, 70.0)


def test_the_rate_does_not_fall_in_a_pause_which_counts_afterwards(clock: Clock) -> None:
    pace = Pace(clock)
    pace.at(0, 100)
    clock.now += 10
    assert pace.at(20, 100) == (2.0, 40.0)
    clock.now += 30
    assert pace.at(20, 100) == (2.0, 10.0)
    assert pace.at(40, 100) == (1.0, 60.0)


def test_a_line_soon_then_every_half_minute_and_at_the_end(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines("iteration", said.append, clock=clock)
    for done in range(71):
        lines(done, 70, loss=24.125)
        clock.now += 1
    assert said == [
        "iteration 5/70, 1.0 it/s, loss 24.12, 1:05 left",
        "iteration 35/70, 1.0 it/s, loss 24.12, 0:35 left",
        "iteration 65/70, 1.0 it/s, loss 24.12, 0:05 left",
        "iteration 70/70, 1.0 it/s, loss 24.12",
    ]


def test_the_end_is_said_once(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines("image", said.append, clock=clock)
    for _ in range(3):
        lines(4, 4)
    assert said == ["image 4/4"]


def test_while_nothing_is_done_a_beat_says_that_it_goes_on(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines("predicting", said.append, "image", clock=clock)
    for now, beat in ((110, 10), (130, 30), (135, 35)):
        clock.now = now
        lines.beat(beat)
    assert said == ["predicting, for 0:30"]
    lines(1, 2)
    clock.now = 166
    lines.beat(66)
    lines(2, 2)
    clock.now = 300
    lines.beat(200)
    assert said == [
        "predicting, for 0:30",
        "predicting 1/2",
        "predicting 1/2, for 1:06",
        "predicting 2/2, 31.0 s/image",
    ]


def test_what_is_slower_than_one_a_second_says_how_long_each_takes() -> None:
    assert described({"segm/AP": 12.3, "name": "a.png"}, 0.5, 3661, "image") == (
        "2.0 s/image, segm/AP 12.3, name a.png, 1:01:01 left"
    )
    assert duration(59.6) == "1:00"


def test_a_console_that_is_no_terminal_gets_plain_lines_however_long() -> None:
    file = io.StringIO()
    long = "x" * 200
    with following(Console(file=file, width=80), "predicting", "image") as progress:
        progress(1, 2, name=f"[red]{long}")
        progress(2, 2, name=f"[red]{long}")
    (line,) = file.getvalue().splitlines()
    assert line.startswith("predicting 2/2, ")
    assert line.endswith(f"name [red]{long}")  # neither wrapped nor taken for markup, and no blanks behind it


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with following(Console(file=file, width=120, force_terminal=True), "training") as progress:
        assert isinstance(progress, Bar)
        progress(3, 8, metric="[a]")
    assert "training" in file.getvalue()
    assert "3/8" in file.getvalue()
    assert "metric [a]" in file.getvalue()


def test_a_file_tells_another_process(tmp_path: Path, clock: Clock) -> None:
    progress = ProgressFile(tmp_path, interval=2, clock=clock)
    assert read_progress(tmp_path) is None
    progress(1, 9, loss=2.5)
    progress(2, 9, loss=2.0)  # too soon
    told = read_progress(tmp_path)
    assert isinstance(told, Told)
    assert (told.done, told.total, told.facts) == (1, 9, {"loss": 2.5})
    clock.now += 2
    progress(3, 9)
    assert (told := read_progress(tmp_path)) is not None
    assert told.done == 3
    progress(9, 9)  # the end is always told
    assert (told := read_progress(tmp_path)) is not None
    assert told.done == 9
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"null", b"\xff", b'{"done": "x", "total": 1}'])
def test_a_broken_file_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read_progress(tmp_path) is None


def test_a_folder_that_is_gone_or_full_does_not_stop_the_work(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "gone")(1, 2)
    nobody(1, 2, loss=1.0)


def test_a_heartbeat_beats_while_the_work_is_under_way_and_not_after_it() -> None:
    beaten = threading.Event()
    beats: list[float] = []

    def beat(seconds: float) -> None:
        beats.append(seconds)
        beaten.set()

    with heartbeat(beat, interval=0.001):
        assert beaten.wait(60)
    count = len(beats)
    assert all(thread.name != "progress" for thread in threading.enumerate())
    assert len(beats) == count


def test_what_takes_long_says_so(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("raytune_m2f.test_progress")
    said = threading.Event()

    def note(record: logging.LogRecord) -> bool:
        said.set()
        return True

    log.addFilter(note)
    with caplog.at_level(logging.INFO, logger=log.name), still(log, "downloading weights", interval=0.001):
        assert said.wait(60)
    assert "still downloading weights, for 0:00" in caplog.text
