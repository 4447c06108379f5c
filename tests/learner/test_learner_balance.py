"""Weights of classes: the published formulas, and losses that stay shares of the global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.data.summary import ClassCounts
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import ConfigError
from raytune_m2f.learner.balance import balanced_weights, class_weights
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

BALANCED = {
    "MODEL.MASK_FORMER.CLASS_BALANCE": "inverse_sqrt",
    "MODEL.MASK_FORMER.SUBCATEGORY_BALANCE": "effective_number",
}


def test_an_instance_weighs_one_on_average_and_rare_ones_more() -> None:
    instances = (1000, 90, 10, 0)
    n = torch.tensor(instances, dtype=torch.float64)
    sqrt = balanced_weights("inverse_sqrt", instances, 0.999)
    effective = balanced_weights("effective_number", instances, 0.999)
    for weights in (sqrt, effective):
        assert (n * weights).sum() / n.sum() == pytest.approx(1)
        assert weights.diff().min() > 0
    assert sqrt[2] / sqrt[0] == pytest.approx(10)
    expected = (1 - 0.999**1000) / (1 - 0.999**10)
    assert effective[2] / effective[0] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(balanced_weights("effective_number", instances, 0.0), torch.ones(4))
    torch.testing.assert_close(balanced_weights("effective_number", (0, 0), 0.9), torch.ones(2))


def test_each_head_has_the_weights_of_its_own_labels(tiny_config: Config) -> None:
    engine = build_engine(tiny_config)
    counts = engine.summary.class_counts
    instances = [a for record in engine.datasets.train.records for a in record.instances]  # type: ignore[attr-defined]
    assert sum(counts.categories) == len(instances)
    for head, size in engine.categories.sizes.items():
        assert counts.subcategories[head] == tuple(
            sum(a.sublabels[head] == label for a in instances) for label in range(size)
        )
    former = tiny_config.with_values(BALANCED).MODEL.MASK_FORMER
    weights = class_weights(former, ClassCounts((1, 4), {"color": (2, 2)}))
    torch.testing.assert_close(weights["class"], torch.tensor([5 / 3, 5 / 6]))
    torch.testing.assert_close(weights["color"], torch.ones(2))
    assert class_weights(tiny_config.MODEL.MASK_FORMER, counts) == {}


def test_micro_batches_do_not_change_what_is_learned(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config.with_values({**BALANCED, "SOLVER.BASE_LR": 1e-5, "SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 0})
    states = []
    for name, micro_batch in (("whole", 0), ("split", 1)):
        train_trial(config.with_values({"SOLVER.MICRO_BATCH": micro_batch}), TrialContext(tmp_path / name))
        states.append(checkpoint.load(tmp_path / name / "checkpoints/iter_0000002.pth"))
    for key in ("loss", "loss_ce", "loss_color"):
        assert states[0]["report"][key] == pytest.approx(states[1]["report"][key], rel=1e-4)
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(value, states[1]["model"][name], rtol=0, atol=1e-5)


def test_without_the_numbers_of_instances_nothing_is_learned(tiny_config: Config) -> None:
    categories = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={})
    learner = MaskFormerLearner(tiny_config.with_values(BALANCED), build_network(tiny_config, categories))
    with pytest.raises(ConfigError, match="CLASS_BALANCE and SUBCATEGORY_BALANCE need"):
        learner.losses(learner.model, [], torch.zeros(4), torch.autocast("cpu", enabled=False), (0, 0, 0))
