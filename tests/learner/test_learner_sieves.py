"""Duplicates of a mask are found as a loop over the instances would find them; and sieves in every way to predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.config import Config
from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.data.masks import Rle, decode
from raytune_m2f.engines import build_engine
from raytune_m2f.evaluation import encode_masks
from raytune_m2f.learner import sieves
from raytune_m2f.learner.mask_former import MaskFormerLearner
from raytune_m2f.learner.prediction import predict, predict_variants, predict_whole
from raytune_m2f.learner.sieves import choice_of, suppressed, without_duplicates
from raytune_m2f.model import Choice, MultiTaskMaskFormer, PackedInstances
from raytune_m2f.model.inference import MASK2FORMER

TEST = "MODEL.MASK_FORMER.TEST"
TILES: dict[str, Any] = {"TEST.TILES.ENABLED": True, "TEST.TILES.SIZE": 64, "TEST.IMS_PER_BATCH": 3}


def found_of(masks: NDArray[np.bool_], labels: list[int] | None = None) -> PackedInstances[Rle]:
    """(K, H, W) masks, best first."""
    count = len(masks)
    return PackedInstances(
        scores=torch.linspace(0.9, 0.1, count),
        labels=torch.tensor(labels or [0] * count),
        masks=encode_masks(torch.from_numpy(masks)),
        queries=torch.arange(count) + 10,
        subprobs={"head": torch.arange(2.0 * count).reshape(count, 2)},
    )


def strips(*ranges: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks of one line, from a pixel up to another."""
    masks = np.zeros((len(ranges), 1, 40), np.bool_)
    for mask, (start, stop) in zip(masks, ranges, strict=True):
        mask[0, start:stop] = True
    return masks


def looped(duplicates: NDArray[np.bool_]) -> list[int]:
    """What is kept, one after the other, as greedy non-maximum suppression is told."""
    kept: list[int] = []
    for i in range(len(duplicates)):
        if not any(duplicates[better, i] for better in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(30))
def test_suppression_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    duplicates = np.triu(rng.random((count, count)) < rng.choice([0.02, 0.1, 0.3, 0.8]), 1)
    assert np.flatnonzero(~suppressed(duplicates)).tolist() == looped(duplicates)


def test_a_chain_is_followed_to_its_end() -> None:
    """Each repeats the one before: every second is kept, which takes a round for each."""
    duplicates = np.eye(50, k=1, dtype=np.bool_)
    assert np.flatnonzero(~suppressed(duplicates)).tolist() == list(range(0, 50, 2))


@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_masks_are_suppressed_as_in_a_loop(
    seed: int, threshold: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sieves, "ROWS_AT_ONCE", rows)
    rng = np.random.default_rng(seed)
    masks = np.zeros((20, 12, 15), np.bool_)  # the last are empty
    for mask in masks[:16]:
        top, left = rng.integers(0, 8, 2)
        mask[top : top + rng.integers(2, 6), left : left + rng.integers(2, 8)] = True
    masks[7] = masks[3]  # exactly the same
    inside = (masks[:, None] & masks[None]).sum((2, 3))
    union = (masks[:, None] | masks[None]).sum((2, 3))
    wanted = looped(np.triu(inside > threshold * union, 1))

    found = without_duplicates(found_of(masks), MaskFormerTest(NMS_THRESHOLD=threshold))

    assert (found.queries - 10).tolist() == wanted
    assert 4 < len(wanted) < 20
    assert found.masks == encode_masks(torch.from_numpy(masks[wanted]))
    assert found.scores.tolist() == found_of(masks).scores[wanted].tolist()
    assert found.subprobs["head"][:, 0].tolist() == [2.0 * i for i in wanted]


def kept(masks: NDArray[np.bool_], labels: list[int], threshold: float, *, agnostic: bool = True) -> list[int]:
    test = MaskFormerTest(NMS_THRESHOLD=threshold, NMS_CLASS_AGNOSTIC=agnostic)
    return (without_duplicates(found_of(masks, labels), test).queries - 10).tolist()


def test_by_hand() -> None:
    """The third repeats the second, which is none itself; a threshold that is just reached suppresses nothing."""
    masks = strips((0, 20), (5, 25), (10, 30), (12, 32))  # neighbours share 15 of 25 pixels, the last two 18 of 22
    labels = [0, 1, 0, 1]
    assert kept(masks, labels, 0.5) == [0, 2]
    assert kept(masks, labels, 0.6) == [0, 1, 2]
    assert kept(masks, labels, 0.59) == [0, 2]
    whole = found_of(masks)
    assert without_duplicates(whole, MaskFormerTest()) is whole
    assert without_duplicates(found_of(masks[:0]), MaskFormerTest(NMS_THRESHOLD=0.5)).masks == []


def test_in_a_category_masks_of_others_do_not_matter() -> None:
    masks = strips((0, 20), (5, 25), (10, 30), (12, 32))
    assert kept(masks, [0, 1, 0, 1], 0.5, agnostic=False) == [0, 1, 2, 3]  # 13 of 27 pixels at most
    assert kept(masks, [0, 0, 1, 1], 0.5, agnostic=False) == [0, 2]
    assert kept(masks, [0, 0, 0, 0], 0.5, agnostic=False) == kept(masks, [0, 0, 0, 0], 0.5)


# In every way to predict


def learner_of(config: Config) -> MaskFormerLearner:
    torch.manual_seed(0)
    learner = build_engine(config).learner()
    assert isinstance(learner, MaskFormerLearner)
    learner.model.eval()
    return learner


def large(config: Config) -> Config:
    """Test images of 160 pixels in the network: nine windows of 64."""
    return config.with_values({"INPUT.MIN_SIZE_TEST": 160, "INPUT.MAX_SIZE_TEST": 160, **TILES})


@pytest.mark.parametrize("tiles", [False, True])
def test_duplicates_are_none_in_training_and_export(any_config: Config, tiles: bool) -> None:
    config = large(any_config) if tiles else any_config
    network = learner_of(config).model
    image = torch.randint(256, (3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert isinstance(network, MultiTaskMaskFormer)
    all_of_it, sieved = ([config.with_values({f"{TEST}.NMS_THRESHOLD": t})] for t in (1.0, 0.4))
    (before,) = predict(network, all_of_it[0], [image], [(80, 70)])
    (after,) = predict(network, sieved[0], [image], [(80, 70)])
    assert 0 < len(after) < len(before)
    overlaps = mask_utils.iou(after.masks, after.masks, [0] * len(after))
    assert (np.triu(overlaps, 1) <= 0.4).all()
    (whole,) = predict_whole(network, sieved[0], [image], [(80, 70)])
    assert torch.equal(whole.masks, torch.from_numpy(decode(after.masks, 80, 70).copy()).bool())
    if not tiles:
        assert len(set(after.queries.tolist())) == len(after)
        assert torch.equal(after.scores[0], before.scores[0])


def test_a_choice_is_what_the_keys_say() -> None:
    keys: dict[str, Any] = {"RANKING": "sum", "CLASS_THRESHOLD": 0.1, "SUBCATEGORY_THRESHOLD": 0.2}
    assert choice_of(MaskFormerTest()) == MASK2FORMER
    assert choice_of(MaskFormerTest(**keys, DROP_NO_OBJECT="any")) == Choice("sum", 0.1, 0.2, "any")
    # a query's other categories have the same mask: they are duplicates, and take no place
    assert choice_of(MaskFormerTest(NMS_THRESHOLD=0.9)) == Choice(one_label=True)
    assert choice_of(MaskFormerTest(NMS_THRESHOLD=0.9), one_label=False) == MASK2FORMER
    assert choice_of(MaskFormerTest(NMS_THRESHOLD=0.9, NMS_CLASS_AGNOSTIC=False)) == MASK2FORMER


def test_one_label_a_query_is_suppression_among_all_of_its_labels(any_config: Config) -> None:
    """What the network leaves out beforehand would be dropped as a duplicate of its own mask."""
    config = any_config.with_values({"TEST.DETECTIONS_PER_IMAGE": 1000})
    network = learner_of(config).model
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    (every,) = predict(network, config, [image], [(60, 50)])
    assert all(mask_utils.area(mask) for mask in every.masks), "an empty mask is nobody's duplicate"
    wanted = without_duplicates(every, MaskFormerTest(NMS_THRESHOLD=0.4))
    (found,) = predict(network, config.with_values({f"{TEST}.NMS_THRESHOLD": 0.4}), [image], [(60, 50)])
    assert len(found) < len(every) / 2
    assert torch.equal(found.queries, wanted.queries)
    assert torch.equal(found.labels, wanted.labels)
    assert torch.equal(found.scores, wanted.scores)
    assert found.masks == wanted.masks


@pytest.mark.parametrize("tiles", [False, True])
def test_variants_are_what_each_predicts_alone(
    tiny_config: Config, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = large(tiny_config) if tiles else tiny_config
    network = learner_of(config).model
    image = torch.randint(256, (3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    configs = [
        config.with_values({f"{TEST}.{key}": value for key, value in values.items()})
        for values in (
            {"RANKING": "logits"},
            {"RANKING": "sum", "CLASS_THRESHOLD": 0.2},
            {"NMS_THRESHOLD": 0.5},
            {"NMS_THRESHOLD": 0.5, "NMS_CLASS_AGNOSTIC": False},
            {"SUBCATEGORY_THRESHOLD": 1.0},
        )
    ]
    alone = [predict(network, each, [image], [(80, 80)])[0] for each in configs]
    calls: list[int] = []
    forward = MultiTaskMaskFormer.forward

    def counted(self: MultiTaskMaskFormer, images: list[torch.Tensor]) -> Any:
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(MultiTaskMaskFormer, "forward", counted)
    (together,) = predict_variants(
        network, config, [image], [(80, 80)], [each.MODEL.MASK_FORMER.TEST for each in configs]
    )
    assert sum(calls) == (9 if tiles else 1)
    assert [len(found) for found in together] == [len(found) for found in alone]
    assert len(together[0]) > len(together[1]) > 0
    assert 0 < len(together[2]) < len(together[3])
    assert len(together[4]) == 0
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-6, rtol=1e-5)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.masks == theirs.masks
