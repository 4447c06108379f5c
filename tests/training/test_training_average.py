"""Averaged weights: what they are, where they are used, and that a break changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from report_cases import same
from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.config.fields.solver import ModelEma
from raytune_m2f.export import export_run, load_export
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.workers import train_on_workers
from raytune_m2f.training import checkpoint
from raytune_m2f.training.average import WeightAverage
from raytune_m2f.training.reports import SEGM_AP, TrialContext, read_reports
from raytune_m2f.training.worker import train_trial


@pytest.fixture(scope="module")
def averaging(tiny_config: Config) -> Config:
    return tiny_config.with_values({"MODEL_EMA.ENABLED": True, "MODEL_EMA.DECAY": 0.6})


@pytest.fixture(scope="module")
def finished(averaging: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that ran without a break."""
    output = tmp_path_factory.mktemp("averaged")
    train_trial(averaging, TrialContext(output))
    return output


def load(folder: Path, iteration: int = 4) -> dict[str, Any]:
    kept = checkpoint.rung_file(folder / "checkpoints", iteration)
    return checkpoint.load(kept if kept.exists() else checkpoint.iteration_file(folder / "checkpoints", iteration))


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_average_is_that_of_all_steps_and_forgets_the_first_at_once() -> None:
    norm = nn.BatchNorm1d(2)
    norm.bias.requires_grad_(False)
    average = WeightAverage(norm, ModelEma(DECAY=0.5))
    expected, steps = torch.zeros(2), []
    for iteration in range(20):
        with torch.no_grad():
            norm.weight.fill_(float(iteration))
        steps.append(norm.weight.detach().clone())
        average.update(iteration)
        decay = min(0.5, (2 + iteration) / (11 + iteration)) if iteration else 0.0
        assert iteration == 0 or average.decay(iteration) == decay
        expected = decay * expected + (1 - decay) * steps[-1]
        before = norm.bias.data_ptr()
        with average.in_place():
            torch.testing.assert_close(norm.weight.detach(), expected)
            assert norm.bias.data_ptr() == before  # what is frozen has no average
        assert torch.equal(norm.weight, steps[-1])
    assert WeightAverage(norm, ModelEma(DECAY=0.5, DECAY_WARM_UP_FACTOR=-1)).decay(0) == 0.5


def test_learning_is_the_same_with_and_without(tiny_config: Config, finished: Path, tmp_path: Path) -> None:
    train_trial(tiny_config, TrialContext(tmp_path))
    plain, averaged = load(tmp_path), load(finished)
    assert "learned" not in plain
    names = averaged["learned"].keys()
    assert_same({name: plain["model"][name] for name in names}, averaged["learned"])
    buffers = plain["model"].keys() - names
    assert_same({n: plain["model"][n] for n in buffers}, {n: averaged["model"][n] for n in buffers})
    losses = [[report["loss"] for report in read_reports(folder)] for folder in (tmp_path, finished)]
    assert losses[0] == losses[1]


def test_the_checkpoint_holds_the_average_of_the_weights(averaging: Config, finished: Path, tmp_path: Path) -> None:
    train_trial(averaging.with_values({"TEST.EVAL_PERIOD": 1}), TrialContext(tmp_path, keep=frozenset(range(5))))
    name = "sem_seg_head.predictor.query_feat.weight"
    average = load(tmp_path, 1)["learned"][name]
    for iteration in (1, 2, 3):
        decay = min(0.6, (2 + iteration) / (11 + iteration))
        average = decay * average + (1 - decay) * load(tmp_path, iteration + 1)["learned"][name]
        torch.testing.assert_close(load(tmp_path, iteration + 1)["model"][name], average)
    assert_same(load(finished)["model"], load(tmp_path)["model"])  # however often it is evaluated


def test_going_on_after_a_break_equals_no_break(averaging: Config, finished: Path, tmp_path: Path) -> None:
    train_trial(averaging, TrialContext(tmp_path, report=lambda report: True))  # stopped at its first report
    train_trial(averaging, TrialContext(tmp_path))
    assert [same(r) for r in read_reports(tmp_path)] == [same(r) for r in read_reports(finished)]
    for part in ("model", "learned"):
        assert_same(load(tmp_path)[part], load(finished)[part])


@pytest.mark.parametrize("then", [True, False])
def test_it_can_be_turned_on_or_off_at_a_break(
    then: bool, tiny_config: Config, averaging: Config, finished: Path, tmp_path: Path
) -> None:
    """What is learned is the same either way; an older checkpoint has no average, which then begins."""
    before, after = (tiny_config, averaging) if then else (averaging, tiny_config)
    train_trial(before, TrialContext(tmp_path, report=lambda report: True))
    train_trial(after, TrialContext(tmp_path))
    state, learned = load(tmp_path), load(finished)["learned"]
    assert ("learned" in state) is then
    own = state["learned"] if then else state["model"]
    assert_same({name: own[name] for name in learned}, learned)


def test_what_is_exported_scores_what_the_trial_scored(averaging: Config, finished: Path, tmp_path: Path) -> None:
    report = export_run(finished, tmp_path / "model", iteration=4)
    assert report == read_reports(finished)[-1]
    assert_same(dict(load_export(tmp_path / "model").model.state_dict()), load(finished)["model"])
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints").mkdir(parents=True)
    shutil.copy(finished / "checkpoints/iter_0000004.pth", fresh / "checkpoints")
    assert load(fresh)["report"] == report


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:::ray")
def test_two_workers_average_the_same_as_one(averaging: Config, finished: Path, tmp_path: Path) -> None:
    train_on_workers(TrialJob(averaging, (SEGM_AP,), workers=(2, 2)), Place.at(tmp_path))
    for part in ("model", "learned"):
        ours, theirs = load(tmp_path)[part], load(finished)[part]
        floats = [name for name, value in theirs.items() if value.is_floating_point() and "running" not in name]
        for name in floats:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-3)
