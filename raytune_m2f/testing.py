"""The contract of an engine (`raytune_m2f.engines.base`) as tests, for samples and predictions of our own network.

Derive a test class and give it a fixture `engine`, made from a configuration with 4 images a batch, MAX_ITER 4, two
subcategory heads, no batch norm (it sees how a batch is split), at least 3 test images and TEST.SUBSET 2:

    class TestMyEngine(EngineConformance):
        @pytest.fixture
        def engine(self) -> Engine: ...
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from raytune_m2f.data import TestSample, TrainSample
from raytune_m2f.engines import Engine
from raytune_m2f.evaluation import Evaluator
from raytune_m2f.learner.base import Learner
from raytune_m2f.model import Instances


class EngineConformance:
    """Every engine passes these."""

    def test_a_batch_is_the_same_over_any_number_of_workers(self, engine: Engine) -> None:
        whole = next(engine.train_batches(rank=0, world_size=1, start_iteration=0))
        parts = [next(engine.train_batches(rank=rank, world_size=2, start_iteration=0)) for rank in range(2)]
        assert_same(whole, [*parts[0], *parts[1]])

    def test_a_later_start_sees_what_it_would_have_seen(self, engine: Engine) -> None:
        batches = list(engine.train_batches(rank=0, world_size=1, start_iteration=0))
        later = list(engine.train_batches(rank=0, world_size=1, start_iteration=2))
        assert len(batches) == 4
        assert len(later) == 2
        for before, after in zip(batches[2:], later, strict=True):
            assert_same(before, after)

    def test_labels_are_in_range_and_masks_fit_their_image(self, engine: Engine) -> None:
        sizes = engine.categories.sizes
        for sample in next(engine.train_batches(rank=0, world_size=1, start_iteration=0)):
            target = sample.target
            assert len(target) <= engine.most_instances
            assert sample.image.dtype == torch.uint8
            assert target.masks.dtype == torch.bool
            assert target.masks.shape == (len(target), *sample.image.shape[1:])
            assert ((target.labels >= 0) & (target.labels < len(engine.categories))).all()
            assert target.sublabels.keys() == sizes.keys()
            for head, labels in target.sublabels.items():
                assert ((labels >= -1) & (labels < sizes[head])).all()

    def test_its_summary_is_of_what_it_gives_out(self, engine: Engine) -> None:
        summary = engine.summary
        test = [sample for batch in engine.test_batches(rank=0, world_size=1) for sample in batch]
        assert summary.test.images == len(test)
        assert summary.heads == tuple(engine.categories.sizes)
        assert summary.most_instances <= engine.most_instances
        assert 0 < summary.images <= sum(part.images for part in summary.train)
        summary.require_usable()

    def test_every_test_image_is_given_out_once(self, engine: Engine) -> None:
        alone = image_ids(engine)
        assert len(set(alone)) == len(alone) >= 3
        assert sorted(image_ids(engine, workers=2)) == sorted(alone)

    def test_the_subset_is_the_same_every_time_and_given_out_once(self, engine: Engine) -> None:
        chosen = image_ids(engine, subset=True)
        assert len(set(chosen)) == len(chosen) == 2
        assert set(chosen) < set(image_ids(engine))
        assert sorted(image_ids(engine, workers=2, subset=True)) == sorted(chosen)

    def test_images_outside_the_subset_do_not_count(self, engine: Engine) -> None:
        every, chosen = (scores(engine, engine.evaluator(subset=subset), 1, subset=True) for subset in (False, True))
        for head in engine.categories.sizes:  # every annotation that is found is in the subset
            assert every[f"{head}/matched"] == chosen[f"{head}/matched"]
        assert every["segm/AR100"] <= chosen["segm/AR100"]

    def test_no_predictions_score_zero(self, engine: Engine) -> None:
        assert scores(engine, engine.evaluator(), 0)["segm/AP"] == 0.0

    def test_reset_forgets(self, engine: Engine) -> None:
        evaluator = engine.evaluator()
        first, second = (scores(engine, evaluator, 1) for _ in range(2))
        assert first["segm/AP"] == second["segm/AP"]

    def test_predictions_of_several_workers_count_together(self, engine: Engine) -> None:
        sent: list[list[Any]] = []

        def listen(items: list[Any]) -> list[list[Any]]:
            sent.append(items)
            return [items]

        for rank in range(2):
            scores(engine, engine.evaluator(listen), 1, rank=rank, world_size=2)
        together = engine.evaluator(lambda items: sent)
        together.reset()
        assert measured(together.evaluate()) == measured(scores(engine, engine.evaluator(), 1))

    def test_losses_are_shares_of_the_global_batch(self, engine: Engine) -> None:
        learner, samples = fresh_learner(engine), next(engine.train_batches(rank=0, world_size=1, start_iteration=0))
        counts = learner.count(samples)
        assert torch.equal(counts, learner.count(samples[:1]) + learner.count(samples[1:]))
        parts = [samples, samples, samples[:1], samples[1:]]
        whole, again, one, others = (
            learner.losses(learner.model, part, counts, nullcontext(), (0, 0, 0)) for part in parts
        )
        assert torch.equal(whole[0], again[0])
        torch.testing.assert_close(one[0] + others[0], whole[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sum(whole[1].values()), whole[0])

    def test_the_evaluator_takes_what_the_learner_predicts(self, engine: Engine) -> None:
        learner, evaluator = fresh_learner(engine), engine.evaluator()
        learner.model.eval()
        evaluator.reset()
        with torch.no_grad():
            for samples in engine.test_batches(rank=0, world_size=1):
                evaluator.process(samples, [found.to("cpu") for found in learner.predict(samples)])
        assert 0 <= evaluator.evaluate()["segm/AP"] <= 100


def fresh_learner(engine: Engine) -> Learner:
    """The same weights every time."""
    torch.manual_seed(0)
    return engine.learner()


def image_ids(engine: Engine, *, workers: int = 1, subset: bool = False) -> list[int]:
    """Image ids of what all workers are given."""
    batches = (engine.test_batches(rank=rank, world_size=workers, subset=subset) for rank in range(workers))
    return [sample.image_id for worker in batches for batch in worker for sample in batch]


def scores(
    engine: Engine, evaluator: Evaluator, count: int, *, rank: int = 0, world_size: int = 1, subset: bool = False
) -> dict[str, float]:
    """Metrics where every image has `count` (0 or 1) instances that cover it."""
    evaluator.reset()
    for samples in engine.test_batches(rank=rank, world_size=world_size, subset=subset):
        evaluator.process(samples, [covering_instances(engine, sample, count) for sample in samples])
    return evaluator.evaluate()


def measured(metrics: dict[str, float]) -> dict[str, float]:
    """Without those that are NaN, which equals nothing."""
    return {name: value for name, value in metrics.items() if value == value}


def covering_instances(engine: Engine, sample: TestSample, count: int) -> Instances:
    """`count` instances of the first class, each as large as the image."""
    return Instances(
        scores=torch.ones(count),
        labels=torch.zeros(count, dtype=torch.int64),
        masks=torch.ones(count, sample.height, sample.width, dtype=torch.bool),
        queries=torch.zeros(count, dtype=torch.int64),
        subprobs={head: torch.ones(count, size) / size for head, size in engine.categories.sizes.items()},
    )


def assert_same(first: Sequence[TrainSample], second: Sequence[TrainSample]) -> None:
    """Equal images, targets and seeds."""

    def content(samples: Sequence[TrainSample]) -> list[Any]:
        return [(s.seed, s.image, s.target.labels, s.target.masks, s.target.sublabels) for s in samples]

    torch.testing.assert_close(content(first), content(second), rtol=0, atol=0)
