"""What learns two images by heart, and what does not: faults of training, each put into a copy, and what is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from faulty import Fault, FaultySubject, findings, grave

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import TrainSample
from raytune_m2f.doctor import learning, network
from raytune_m2f.doctor.excerpt import entropy, excerpt_of
from raytune_m2f.doctor.finding import Finding
from raytune_m2f.doctor.learning import CHECKS, Course, Run
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.engines import build_engine
from raytune_m2f.model import MAIN, UNKNOWN

NAME = "learning/one_batch"


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """A small one that learns two images in some twenty steps."""
    swin = {"EMBED_DIM": 16, "DEPTHS": [1, 1, 1, 1], "NUM_HEADS": [1, 2, 4, 8], "DROP_PATH_RATE": 0.0}
    values: dict[str, Any] = {f"MODEL.SWIN.{key}": value for key, value in swin.items()}
    located = {"QUERY_SELECTION": "heatmap", "MASK_PRIOR": True}
    values |= {f"MODEL.MASK_FORMER.{key}": value for key, value in located.items()}
    values |= {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "SOLVER.BASE_LR": 3e-3, "SOLVER.MAX_ITER": 300}
    return tiny_config.with_values(values)


def look(config: Config, fault: Fault = lambda learner: None, *, seconds: float = 1e6) -> list[Finding]:
    """What is said of a learner with a fault, however busy the machine is."""
    return findings(FaultySubject(config, fault=fault, seconds=seconds), CHECKS)[NAME]


# What it learns


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sound_training_learns_every_head_and_the_masks(config: Config, seed: int) -> None:
    (found,) = look(config.with_values({"SEED": seed}))
    assert found.level == "ok"
    assert found.values["accuracy"].keys() == {MAIN, "color", "texture"}
    assert min(found.values["accuracy"].values()) > 0.8
    assert found.values["overlap"] > 0.6
    assert found.values["steps"] < 100


def test_without_heads_it_learns_the_main_one(config: Config) -> None:
    (found,) = look(config.with_values({"DATASETS.SUBCATEGORIES": []}))
    assert found.level == "ok"
    assert found.values["accuracy"].keys() == {MAIN}


def test_a_head_without_a_label_in_the_images_is_no_fault(config: Config) -> None:
    subject = Subject(config, seconds=1e6)
    assert subject.excerpt is not None
    unknown = tuple(with_color(s, torch.full((len(s.target),), UNKNOWN)) for s in subject.excerpt.samples)
    subject.excerpt = replace(subject.excerpt, samples=unknown, unlabelled=("color",))
    found = findings(subject, (*network.CHECKS, *CHECKS))
    assert grave(found) == {}
    assert "without a label there, and not asked: color" in found[NAME][0].figure


# Faults


def trained_on(change: Callable[[TrainSample], TrainSample]) -> Fault:
    """Losses of samples that are changed on their way."""

    def fault(learner: Any) -> None:
        plain = learner.losses

        def losses(forward: Any, samples: Any, *args: Any) -> Any:
            return plain(forward, [change(sample) for sample in samples], *args)

        learner.losses = losses

    return fault


def with_color(sample: TrainSample, color: torch.Tensor) -> TrainSample:
    return replace(sample, target=replace(sample.target, sublabels={**sample.target.sublabels, "color": color}))


def random_colors(sample: TrainSample) -> TrainSample:
    return with_color(sample, torch.randint(0, 4, (len(sample.target),)))


def shifted_colors(sample: TrainSample) -> TrainSample:
    return with_color(sample, (sample.target.sublabels["color"] + 1) % 4)


def transposed_masks(sample: TrainSample) -> TrainSample:
    return replace(sample, target=replace(sample.target, masks=sample.target.masks.mT))


def test_labels_that_change_from_step_to_step_are_named(config: Config) -> None:
    (found,) = look(config, trained_on(random_colors))
    assert found.level == "problem"
    assert "head 'color' does not learn" in found.figure
    assert found.values["of"] == "color"


def test_labels_that_are_shifted_are_named(config: Config) -> None:
    (found,) = look(config, trained_on(shifted_colors))
    assert (found.level, found.values["of"]) == ("problem", "color")
    assert "other classes than the data have" in found.meaning


def test_masks_that_are_transposed_are_named(config: Config) -> None:
    (found,) = look(config, trained_on(transposed_masks))
    assert (found.level, found.values["of"]) == ("problem", "masks")


@pytest.mark.parametrize("key", ["CLASS_WEIGHT", "SUBCATEGORY_WEIGHT"])
def test_a_head_without_weight_is_not_asked(config: Config, key: str) -> None:
    (found,) = look(config.with_values({f"MODEL.MASK_FORMER.{key}": 0}))
    assert found.level == "ok"
    assert found.values["accuracy"].keys() == ({"color", "texture"} if key == "CLASS_WEIGHT" else {MAIN})


def test_a_head_left_out_of_the_loss_is_named(config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.criterion.weighted
        learner.criterion.weighted = lambda losses: {n: v for n, v in plain(losses).items() if n != "loss_texture"}

    found = look(config, fault)
    assert {(f.level, f.values["of"]) for f in found} == {("problem", "texture")}


@pytest.mark.parametrize(
    ("factor", "told"),
    [(1e-7, "far too small"), (1e-4, "far too small"), (300.0, "far too high")],
    ids=["nearly zero", "far too low", "far too high"],
)
def test_a_rate_with_which_nothing_is_learned_is_named(config: Config, factor: float, told: str) -> None:
    (found,) = look(config.with_values({"SOLVER.BASE_LR": 3e-3 * factor}))
    assert found.level == "problem"
    assert told in found.meaning
    assert "BASE_LR" in found.remedy


def test_a_rate_of_zero_is_named(config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.optimizer

        def optimizer(config: Config) -> torch.optim.Optimizer:
            made = plain(config)
            for group in made.param_groups:
                group["lr"] = 0.0
            return made  # type: ignore[no-any-return]

        learner.optimizer = optimizer

    (found,) = look(config, fault)
    assert "far too small" in found.meaning


def test_gradients_that_are_clipped_away_are_named(config: Config) -> None:
    (found,) = look(config.with_values({"SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1e-12}))
    assert (found.level, "far too small" in found.meaning) == ("problem", True)
    assert "CLIP_VALUE (1e-12 now" in found.remedy


def test_nan_is_named_with_its_step_and_rate(config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.losses
        steps = iter(range(100))

        def losses(*args: Any) -> Any:
            total, terms = plain(*args)
            return (
                (total, terms)
                if next(steps) < 3
                else (total * float("nan"), {n: v * float("nan") for n, v in terms.items()})
            )

        learner.losses = losses

    (found,) = look(config, fault)
    assert found.level == "problem"
    assert "NaN or infinite at step 4" in found.figure
    assert "0.003" in found.figure


def test_what_inference_loses_is_named(config: Config) -> None:
    """Everything is learned, and then the head reads something else in evaluation."""

    def fault(learner: Any) -> None:
        class Changed(type(learner)):  # type: ignore[misc]
            def predict(self, samples: Any) -> list[Any]:
                return [
                    replace(one, subprobs={**one.subprobs, "color": one.subprobs["color"].roll(1, -1)})
                    for one in super().predict(samples)
                ]

        learner.__class__ = Changed

    ok, found = look(config, fault)
    assert ok.level == "ok"
    assert (found.level, found.values["of"]) == ("problem", "color")


# What cannot be said


def test_too_little_time_is_said_and_how_much_to_give(config: Config) -> None:
    (found,) = look(config, seconds=0.01)
    assert found.level == "skipped"
    assert "--seconds" in found.figure


def test_a_slow_rate_is_no_fault_of_a_long_training(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    monkeypatch.setattr(learning, "STEPS", 30)
    slow = {"SOLVER.BASE_LR": 3e-5, "SOLVER.WARMUP_ITERS": 0}
    (found,) = look(config.with_values({**slow, "SOLVER.MAX_ITER": 100_000}))
    assert found.level == "skipped"
    (found,) = look(config.with_values({**slow, "SOLVER.MAX_ITER": 200}))
    assert found.level == "warning"
    assert "too short" in found.meaning


def test_a_training_of_another_network_is_skipped(config: Config) -> None:
    def fault(learner: Any) -> None:
        learner.model = torch.nn.Linear(2, 2)

    (found,) = look(config, fault)
    assert found.level == "skipped"


# Its parts


def test_what_is_forgotten_has_not_been_learned() -> None:
    course = Course(0.8, 0.3)
    for step, figure in enumerate((0.9, 0.5, 0.9, 0.9)):
        course.add(step, figure)
    assert course.learned == 3
    course.add(4, 0.1)
    assert course.learned is None
    assert course.last == 0.1


def test_the_fall_of_a_loss_is_a_share_of_its_start() -> None:
    run = Run(losses={"loss": [10.0, 10, 10, 4, 2, 2, 2, 2, 2]})
    assert run.fall("loss") == pytest.approx(0.8)
    assert run.fall("nothing") == 0.0


def test_windows_show_several_classes_of_every_head_and_few_instances(tiny_config: Config) -> None:
    excerpt = excerpt_of(build_engine(tiny_config), tiny_config, torch.device("cpu"))
    assert excerpt is not None
    assert [sample.image.shape for sample in excerpt.samples] == [(3, 64, 64)] * 2
    assert all(1 <= len(sample.target) <= 6 for sample in excerpt.samples)
    assert all(sample.target.masks.flatten(1).any(1).all() for sample in excerpt.samples)
    assert all(len(excerpt.labels(head).unique()) > 1 for head in (MAIN, "color", "texture"))
    assert excerpt.unlabelled == ()


def test_entropy_is_that_of_the_best_guess() -> None:
    assert entropy(Counter({0: 5})) == 0
    assert entropy(Counter({0: 1, 1: 1})) == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb"])
@pytest.mark.parametrize("seed", [0, 1])
def test_shipped_configurations_of_small_data_have_no_warning(data_root: Path, name: str, seed: int) -> None:
    subject = Subject(load_config(name, [f"SEED={seed}"]), seconds=1e6)
    assert grave(findings(subject, (*network.CHECKS, *CHECKS))) == {}


def test_a_method_is_bound_to_its_learner() -> None:
    """What the faults above rely on: methods put on an instance are found before those of its class."""

    class Thing:
        def name(self) -> str:
            return "plain"

    thing = Thing()
    thing.name = MethodType(lambda self: "faulty", thing)  # type: ignore[method-assign]
    assert thing.name() == "faulty"
