"""What is watched of the heads: against a count in loops, over micro-batches, and across a checkpoint."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from raytune_m2f.learner.vitals import Vitals, vital_keys
from raytune_m2f.model import MAIN, UNKNOWN, Outputs, Target
from raytune_m2f.model.matcher import Matches
from raytune_m2f.model.structures import TargetBatch

CLASSES = {MAIN: 3, "ripeness": 2}


def classifiers() -> dict[str, nn.Linear]:
    return {head: nn.Linear(4, count + 1) for head, count in CLASSES.items()}


def seen(seed: int, *, distinct: bool = False) -> tuple[Outputs, Matches, TargetBatch]:
    """Two images of 3 and 2 instances, 5 queries, random outputs; one instance of unknown ripeness."""
    draw = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, 2, 5, count + 1, generator=draw) for count in CLASSES.values()]
    real = torch.rand(2, 5, generator=draw) < 0.5 if distinct else None
    outputs = Outputs(
        logits[0], {"ripeness": logits[1]}, torch.zeros(2, 2, 5, 1), torch.zeros(2, 1, 4, 4), distinct=real
    )
    ripeness = [torch.tensor([0, UNKNOWN, 1]), torch.tensor([1, 1])]
    labels = [torch.tensor([0, 2, 2]), torch.tensor([1, 2])]
    targets = [
        Target(label, torch.zeros(len(label), 4, 4, dtype=torch.bool), {"ripeness": ripe})
        for label, ripe in zip(labels, ripeness, strict=True)
    ]
    queries = [torch.randperm(5, generator=draw)[:3], torch.randperm(5, generator=draw)[:2]]
    last = torch.cat(queries)
    matches = Matches(
        torch.arange(2)[:, None],
        torch.tensor([[0, 0, 0, 1, 1]]),
        torch.stack([last.flip(0), last]),
        torch.arange(5).expand(2, 5),
        (3, 2),
    )
    return outputs, matches, TargetBatch.of(targets)


def in_loops(steps: list[tuple[Outputs, Matches, TargetBatch]], head: str) -> dict[str, float]:
    right, none, entropy, predicted, truth = 0, 0, 0.0, [], []
    for outputs, matches, batch in steps:
        logits = outputs.pred_logits if head == MAIN else outputs.pred_sublogits[head]
        labels = batch.labels if head == MAIN else batch.sublabels[head]
        for place in range(5):
            label = int(labels[matches.instances[-1, place]])
            if label == UNKNOWN:
                continue
            own = logits[-1, matches.images[0, place], matches.queries[-1, place]].softmax(-1).tolist()
            says = own.index(max(own))
            entropy -= sum(p * math.log(p) for p in own) / math.log(len(own))
            right, none = right + (says == label), none + (says == CLASSES[head])
            predicted.append(says)
            truth.append(label)
    n = len(truth)
    largest = max(predicted.count(c) for c in range(CLASSES[head]))
    majority = max(truth.count(c) for c in range(CLASSES[head]))
    return {
        "right": 100 * right / n,
        "entropy": 100 * entropy / n,
        "no_object": 100 * none / n,
        "largest": 100 * largest / n,
        "majority": 100 * majority / n,
    }


def step(vitals: Vitals, *parts: tuple[Outputs, Matches, TargetBatch]) -> None:
    vitals.awake = True
    for part in parts:
        vitals.observe(*part)
    sums = vitals.take()
    assert sums is not None
    vitals.add(sums)


@pytest.mark.parametrize("head", [MAIN, "ripeness"])
def test_the_means_are_those_of_a_count_in_loops(head: str) -> None:
    steps = [seen(seed) for seed in range(4)]
    vitals = Vitals(classifiers())
    for part in steps:
        step(vitals, part)
    report = vitals.report()
    for name, value in in_loops(steps, head).items():
        assert report[f"vitals/{head}/{name}"] == pytest.approx(value, abs=1e-3), name


def test_micro_batches_are_one_step() -> None:
    whole, parts = Vitals(classifiers()), Vitals(classifiers())
    for seed in range(3):
        step(whole, seen(seed))
    step(parts, *(seen(seed) for seed in range(3)))
    assert parts.report() == whole.report()


def test_queries_that_repeat_another_leave_their_instances_unmatched() -> None:
    vitals = Vitals(classifiers())
    outputs, matches, batch = seen(1, distinct=True)
    assert outputs.distinct is not None
    step(vitals, (outputs, matches, batch))
    report = vitals.report()
    matched = int(outputs.distinct[matches.images[0], matches.queries[-1]].sum())
    assert 0 < matched < 5
    assert report["vitals/unmatched"] == pytest.approx(100 * (5 - matched) / 5)
    says_none = outputs.pred_logits[-1].argmax(-1) == 3
    assert report["vitals/no_object"] == pytest.approx(
        100 * int((says_none & outputs.distinct).sum()) / int(outputs.distinct.sum()), abs=1e-3
    )


def test_more_instances_than_queries_are_unmatched() -> None:
    outputs, matches, batch = seen(2)
    fewer = Matches(matches.layers, matches.images[:, :4], matches.queries[:, :4], matches.instances[:, :4], (3, 1))
    vitals = Vitals(classifiers())
    step(vitals, (outputs, fewer, batch))
    assert vitals.report()["vitals/unmatched"] == pytest.approx(20)


def test_the_share_of_a_heads_gradient_in_the_whole() -> None:
    layers = classifiers()
    vitals = Vitals(layers)
    for parameter in layers[MAIN].parameters():
        parameter.grad = torch.ones_like(parameter)
    own = math.sqrt(sum(p.numel() for p in layers[MAIN].parameters()))
    vitals.add_gradients(torch.tensor(2 * own))
    vitals.add_gradients(torch.tensor(math.inf))  # an overflow in half precision: left out
    report = vitals.report()
    assert report["vitals/class/gradient"] == pytest.approx(50)
    assert report["vitals/ripeness/gradient"] == 0


def test_nothing_is_looked_at_while_it_sleeps() -> None:
    vitals = Vitals(classifiers())
    vitals.observe(*seen(0))
    assert vitals.take() is None
    assert vitals.report() == {}


def test_a_report_begins_anew_and_a_checkpoint_goes_on() -> None:
    vitals, other = Vitals(classifiers()), Vitals(classifiers())
    step(vitals, seen(0))
    other.restore(vitals.state())
    step(vitals, seen(1))
    step(other, seen(1))
    assert other.report() == vitals.report() != {}
    assert vitals.report() == {}
    other.restore(None)  # a checkpoint of before there were any
    assert other.report() == {}


def test_every_entry_is_listed() -> None:
    vitals = Vitals(classifiers())
    step(vitals, seen(0))
    vitals.add_gradients(torch.tensor(1.0))
    assert set(vitals.report()) == set(vital_keys(["ripeness"]))


def test_sums_are_a_single_vector_of_the_device() -> None:
    vitals = Vitals(classifiers())
    vitals.awake = True
    vitals.observe(*seen(0))
    sums = vitals.take()
    assert isinstance(sums, Tensor)
    assert sums.ndim == 1
    assert sums.dtype == torch.float32
