"""What a trial and a study cost: measured steps, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import copied, found, named, sound_config

from raytune_m2f.config import Config
from raytune_m2f.doctor import cost
from raytune_m2f.doctor.cost import Measured, estimate, share_with_rungs
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.finding import Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.study.settings import Budget
from raytune_m2f.training.memory import ADVICE
from raytune_m2f.training.step import Stepper

Dataset = dict[str, Path]
MEASURED = Measured(
    data=0.2,
    step=1.0,
    predict=0.5,
    images=10,
    steps=5,
    predicted=6,
    of=1,
    memory_gb=1.0,
    micro_batch=(4, 4),
    weights=1_000_000,
)


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    return tiny_config.with_values({"SOLVER.MAX_ITER": 90, "TEST.EVAL_PERIOD": 30})


def said(subject: Subject, measured: Measured | None = None) -> dict[str, list[Finding]]:
    """Findings by the name of their check; of figures that are given instead of measured."""
    if measured is not None:
        subject._made[cost._measure] = measured
    findings: dict[str, list[Finding]] = {}
    for finding in examine(subject, named("cost/")):
        findings.setdefault(finding.check, []).append(finding)
    return findings


def test_steps_are_measured_as_a_training_makes_them(any_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    own = Stepper.step

    def noted(self: Stepper, samples: Any, iteration: int) -> dict[str, float]:
        steps.append((len(samples), samples[0].image.shape[-1]))
        return own(self, samples, iteration)

    monkeypatch.setattr(Stepper, "step", noted)
    values = {"SOLVER.MAX_ITER": 900, "TEST.EVAL_PERIOD": 900, "DATALOADER.NUM_WORKERS": 3}
    values |= {"INPUT.START.ITERS": 80, "INPUT.START.IMAGE_SIZE": 32}
    findings = said(Subject(any_config.with_values(values)))
    assert [finding.level for each in findings.values() for finding in each] == ["ok"] * 3
    assert steps == [(4, 64)] * 6  # at the full size, and the first is not counted
    (time,), (memory,) = findings["cost/time"], findings["cost/memory"]
    assert "a trial takes about " in time.figure
    assert "(rests on 5 steps, and 4 test images)" in time.figure
    assert 0 < time.values["seconds"] < 6000
    assert 0.1 < memory.values["memory_gb"] < memory.values["there_gb"]
    assert "with 4 images at once" in memory.figure


def test_one_step_is_enough_where_time_is_short(config: Config) -> None:
    (time,) = said(Subject(config, seconds=1e-6))["cost/time"]
    assert "(rests on 1 step, and 2 test images)" in time.figure


def test_one_image_stands_for_a_batch_that_takes_too_long(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LARGE", 64)
    findings = said(Subject(config, seconds=1e-6))
    (time,), (memory,) = findings["cost/time"], findings["cost/memory"]
    assert "(rests on 1 step of one image, times 4, and 2 test images)" in time.figure  # not made once more
    assert time.values["step"] > 0
    assert "with 1 image at once" in memory.figure
    (whole,) = said(Subject(config))["cost/time"]  # where there is time enough
    assert "(rests on 5 steps, and 4 test images)" in whole.figure


def test_a_trial_is_its_iterations_and_evaluations(config: Config) -> None:
    alone = estimate(config, MEASURED)
    assert (alone.training, alone.evaluations, alone.evaluation) == pytest.approx((90 * 1.2, 3, 15))
    loaded = estimate(config.with_values({"DATALOADER.NUM_WORKERS": 4}), MEASURED)
    assert (loaded.training, loaded.waits) == pytest.approx((90, 0))
    slow = estimate(config.with_values({"DATALOADER.NUM_WORKERS": 4}), replace(MEASURED, data=8.0))
    assert (slow.training, slow.waits) == pytest.approx((180, 0.5))
    subset = estimate(config.with_values({"TEST.SUBSET": 4}), MEASURED)
    assert subset.evaluation == pytest.approx((4 + 4 + 10) * 0.5)
    start = config.with_values({"INPUT.START.ITERS": 40, "INPUT.START.IMAGE_SIZE": 32})
    assert estimate(start, MEASURED).training == pytest.approx(50 * 1.2 + 40 * 1.2 / 4)
    assert estimate(config.with_values({"TEST.EVAL_PERIOD": 0}), MEASURED).evaluations == 1
    assert estimate(config.with_values({"TEST.EVAL_PERIOD": 40}), MEASURED).evaluations == 3
    assert estimate(config, MEASURED, workers=2).evaluation == pytest.approx(7.5)


def test_one_of_three_goes_on_at_each_rung(config: Config) -> None:
    long = config.with_values({"SOLVER.MAX_ITER": 900, "TEST.EVAL_PERIOD": 100})
    assert share_with_rungs(long) == pytest.approx(1 / 9 + 2 / 9 / 3 + 6 / 9 / 9)
    assert share_with_rungs(config.with_values({"TEST.EVAL_PERIOD": 90})) == 1


def test_what_a_budget_buys_is_told(config: Config) -> None:
    budget = Budget(trials=12, seconds=24_600, gpu_hours=1, iterations=9000)
    trials, wall, gpu, iterations = said(Subject(config, budget=budget), MEASURED)["cost/study"]
    assert trials.figure.startswith("12 trials one after the other: ")
    assert wall.figure.startswith("6.83 hours of wall time buy 200 trials to their end, ")  # of 123 s
    assert gpu.figure.startswith("1 GPU-hours buy 29.3 trials")
    assert iterations.figure.startswith("9000 iterations buy 100 trials")
    (plain,) = said(Subject(config), MEASURED)["cost/study"]
    assert plain.figure.startswith("20 trials one after the other: ")


def test_a_budget_for_hardly_a_trial_is_worth_a_warning(config: Config) -> None:
    (finding,) = said(Subject(config, budget=Budget(seconds=200)), MEASURED)["cost/study"]
    assert (finding.level, finding.meaning) == ("warning", "That is too few to search with.")


def test_more_evaluation_than_training_is_worth_a_warning(config: Config) -> None:
    (finding,) = said(Subject(config), replace(MEASURED, predict=50.0))["cost/time"]
    assert finding.level == "warning"
    assert "% of it is evaluation" in finding.meaning
    assert "TEST.EVAL_PERIOD" in finding.remedy


def test_days_on_a_cpu_are_worth_a_warning(config: Config) -> None:
    (finding,) = said(Subject(config), replace(MEASURED, step=9000.0))["cost/time"]
    assert finding.level == "warning"
    assert "a trial takes about 9.38 days on this CPU" in finding.figure
    assert "small_data.yaml" in finding.remedy


def test_a_network_that_waits_for_images_is_worth_a_warning(config: Config) -> None:
    (finding,) = said(Subject(config), replace(MEASURED, data=30.0))["cost/time"]
    assert finding.level == "warning"
    assert "97% of the training is waiting for images: a batch takes 30.0 s to load, a step 1.0 s" in finding.meaning


def test_a_machine_that_is_full_is_worth_a_warning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_memory_there", lambda device: (1.1, "here"))
    (finding,) = said(Subject(config), MEASURED)["cost/memory"]
    assert finding.level == "warning"
    assert "SOLVER.MICRO_BATCH=2" in finding.remedy


@pytest.mark.parametrize("fits", [2, 0])
def test_out_of_memory_is_a_finding(config: Config, monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    """As many images at once as do not fit raise what a GPU raises."""
    own = Stepper.backward

    def limited(self: Stepper, samples: Any, *rest: Any) -> Any:
        if len(samples) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return own(self, samples, *rest)

    monkeypatch.setattr(Stepper, "backward", limited)
    findings = said(Subject(config))
    (memory,) = findings["cost/memory"]
    if fits:
        assert memory.level == "warning"
        assert "4 at once were out of memory" in memory.figure
        assert "SOLVER.MICRO_BATCH=2" in memory.remedy
    else:
        assert memory.level == "problem"
        assert ADVICE in memory.figure
        assert [findings[f"cost/{name}"][0].level for name in ("time", "study")] == ["skipped", "skipped"]


def test_a_loss_that_is_not_finite_is_a_problem(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "_gradients", lambda *_: {"loss": float("nan")})
    (finding,) = found(config, "cost/")
    assert finding.level == "problem"
    assert "no step could be measured: iteration " in finding.figure


def test_an_image_that_cannot_be_read_is_a_problem_told_once(tiny_dataset: Dataset, tmp_path: Path) -> None:
    dataset = copied(tiny_dataset, tmp_path)
    for file in dataset["train_images"].iterdir():
        file.write_bytes(file.read_bytes()[:-400])
    (finding,) = found(sound_config(dataset), "cost/")
    assert finding.check == "cost/time"
    assert "cannot be read" in finding.figure
