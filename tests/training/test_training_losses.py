"""The losses of a report: their means, in bounded room, from old checkpoints too; and the learning rate beside them."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import same

from raytune_m2f.config import Config
from raytune_m2f.training import checkpoint
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.step import LossMeans, Stepper
from raytune_m2f.training.worker import train_trial

STEPS = [{"loss": 0.1 * number, "loss_ce": 1 / (number + 3)} for number in range(7)]


def test_means_are_those_of_all_steps() -> None:
    means = LossMeans()
    for losses in STEPS:
        means.add(losses)
    assert means.take() == {name: sum(losses[name] for losses in STEPS) / 7 for name in STEPS[0]}
    means.add(STEPS[6])
    assert means.take() == STEPS[6], "they begin anew"


def test_their_state_does_not_grow_and_goes_on() -> None:
    means = LossMeans()
    sizes = set()
    for losses in STEPS[:4]:
        means.add(losses)
        sizes.add(len(str(sorted(means.state()["sums"]))))
    assert len(sizes) == 1
    for state in (means.state(), STEPS[:4]):  # the list is what earlier checkpoints hold
        again = LossMeans.restored(state)
        for losses in STEPS[4:]:
            again.add(losses)
        assert again.take()["loss"] == pytest.approx(sum(losses["loss"] for losses in STEPS) / 7, rel=1e-15)


def test_a_checkpoint_of_the_version_before_is_gone_on_from(tiny_config: Config, tmp_path: Path) -> None:
    """It has a list of losses, and so many of them that their mean matters."""
    config = tiny_config.with_values({"TEST.EVAL_PERIOD": 0, "SOLVER.CHECKPOINT_PERIOD": 3})
    train_trial(config, TrialContext(tmp_path / "whole"))
    newest = checkpoint.newest_first(tmp_path / "whole" / "checkpoints")[-1]
    state = checkpoint.load(newest)
    assert (state["iteration"], state["losses"]["steps"]) == (3, 3)
    means = {name: value / 3 for name, value in state["losses"]["sums"].items()}
    checkpoint.save_iteration({**state, "losses": [means] * 3}, tmp_path / "old" / "checkpoints")
    train_trial(config, TrialContext(tmp_path / "old"))
    ours, theirs = (same(read_reports(tmp_path / name)[-1]) for name in ("old", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key] == pytest.approx(theirs[key], rel=1e-6) for key in ours if key.startswith("loss"))


def test_the_reported_rate_is_that_of_the_steps_and_of_the_log(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A polynomial schedule has come to nothing after the last step, which still had a rate."""
    used: list[float] = []
    step: Any = Stepper.update

    def noted(self: Stepper, iteration: int) -> None:
        step(self, iteration)
        used.append(max(group["lr"] for group in self.optimizer.param_groups))

    monkeypatch.setattr(Stepper, "update", noted)
    config = tiny_config.with_values(
        {"SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER.MAX_ITER": 20, "TEST.EVAL_PERIOD": 10}
    )
    with caplog.at_level(logging.INFO, logger="raytune_m2f"):
        train_trial(config, replace(TrialContext(tmp_path), metric=Objective.parse("-loss")))
    reports = read_reports(tmp_path)
    assert [report["lr"] for report in reports] == [used[9], used[19]]
    assert reports[-1]["lr"] > 0
    assert not math.isclose(used[9], used[10]), "the next step's rate is another"
    assert f"lr {used[19]:.2e}" in caplog.text
