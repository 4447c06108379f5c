"""One training a directory, in this process or in Ray's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.launch.here import run_training
from raytune_m2f.launch.place import Place
from raytune_m2f.training.checkpoint_files import iteration_file
from raytune_m2f.training.reports import Report, TrialContext


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The directory of a training that can be resumed."""
    checkpoint = iteration_file(tmp_path / "run" / "checkpoints", 2)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    return tmp_path / "run"


@pytest.mark.parametrize("workers", [None, 2])
def test_a_second_training_in_a_directory_is_refused(tiny_config: Config, output: Path, workers: int | None) -> None:
    with Place.at(output).locked(), pytest.raises(InputError, match=rf"another process .* trains in {output}\."):
        run_training(tiny_config, output, resume=True, workers=workers)
    assert not (output / "log.txt").exists()


def test_a_training_holds_its_directory_and_logs_to_the_terminal_too(
    tiny_config: Config, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def trained(config: Config, context: TrialContext) -> Report:
        with pytest.raises(InputError, match="trains in"):
            run_training(config, output, resume=True)
        logging.getLogger("raytune_m2f.test").info("step 3")
        return {"iteration": 3}

    with caplog.at_level(logging.INFO, logger="raytune_m2f"):
        assert run_training(tiny_config, output, resume=True, function=trained) == {"iteration": 3}
    assert "step 3" in (output / "log.txt").read_text()
    assert "step 3" in caplog.text
