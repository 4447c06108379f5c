"""Prediction by windows, from a training's evaluation and from an export alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.data.masks import decode, encode_edges
from raytune_m2f.engines import build_engine
from raytune_m2f.export import ExportedModel
from raytune_m2f.learner.mask_former import MaskFormerLearner
from raytune_m2f.learner.prediction import Found, merge_windows, predict, predict_whole
from raytune_m2f.learner.tiles import windows_of
from raytune_m2f.model import MultiTaskMaskFormer, PackedInstances, edges_of

TILES: dict[str, Any] = {"TEST.TILES.ENABLED": True, "TEST.TILES.SIZE": 64, "TEST.IMS_PER_BATCH": 3}


@pytest.fixture
def large(tiny_config: Config) -> Config:
    """Test images of 160 pixels in the network: nine windows of 64."""
    return tiny_config.with_values({"INPUT.MIN_SIZE_TEST": 160, "INPUT.MAX_SIZE_TEST": 160, **TILES})


def learner_of(config: Config) -> MaskFormerLearner:
    torch.manual_seed(0)
    learner = build_engine(config).learner()
    assert isinstance(learner, MaskFormerLearner)
    learner.model.eval()
    return learner


def assert_same(one: Found, other: Found) -> None:
    for name in ("scores", "labels", "queries"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.masks == other.masks
    assert one.subprobs.keys() == other.subprobs.keys()
    assert all(torch.equal(one.subprobs[name], other.subprobs[name]) for name in one.subprobs)


def test_an_image_that_fits_into_a_window_is_predicted_as_a_whole(tiny_config: Config) -> None:
    learner = learner_of(tiny_config)
    image = torch.randint(256, (3, 64, 48), dtype=torch.uint8)
    (whole,) = predict(learner.model, tiny_config, [image], [(70, 50)])
    (by_windows,) = predict(learner.model, tiny_config.with_values(TILES), [image], [(70, 50)])
    assert_same(whole, by_windows)


def test_a_window_is_predicted_as_an_image_of_its_own(large: Config) -> None:
    """At the scale of the network its masks are those of the window, in their place."""
    learner = learner_of(large)
    image = torch.randint(256, (3, 100, 64), dtype=torch.uint8)
    (found,) = predict(learner.model, large.with_values({"TEST.DETECTIONS_PER_IMAGE": 1000}), [image], [(100, 64)])
    windows = windows_of((100, 64), (100, 64), size=64, overlap=0.25)
    assert [window.top for window in windows] == [0, 36]
    alone = learner.model.predict([image[:, :64], image[:, 36:]], [(64, 64)] * 2, max_instances=1000)
    scores = torch.cat([each.scores for each in alone])
    assert all((scores - score).abs().min() < 1e-5 for score in found.scores)
    assert 1 <= len(found) <= len(scores)
    assert (found.scores.diff() <= 0).all()
    assert {name: probs.shape for name, probs in found.subprobs.items()} == {
        name: (len(found), probs.shape[1]) for name, probs in alone[0].subprobs.items()
    }


def test_training_and_export_predict_the_same(large: Config) -> None:
    learner = learner_of(large)
    engine = build_engine(large)
    exported = ExportedModel(learner.model, large, engine.categories, torch.device("cpu"))
    pixels = torch.randint(256, (64, 64, 3), dtype=torch.uint8).numpy()
    ours = exported.predict_encoded(pixels)
    resized = exported.resized(pixels)
    assert resized.shape == (3, 160, 160)
    (sample, *_), *_ = engine.test_batches(rank=0, world_size=1)
    sample = type(sample)(resized, 1, 64, 64, Path("x.png"))
    with torch.no_grad():
        (theirs,) = learner.predict([sample])
    assert_same(ours, theirs)
    assert len(ours) <= large.TEST.DETECTIONS_PER_IMAGE
    (whole,) = predict_whole(learner.model, large, [resized], [(64, 64)])
    assert torch.equal(whole.masks, torch.from_numpy(decode(ours.masks, 64, 64).copy()).bool())


@pytest.mark.parametrize("at_once", [1, 2, 20])
def test_windows_go_in_batches(large: Config, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = MultiTaskMaskFormer.forward

    def counted(self: MultiTaskMaskFormer, images: list[torch.Tensor]) -> Any:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(MultiTaskMaskFormer, "forward", counted)
    learner = learner_of(large)
    image = torch.zeros(3, 160, 160, dtype=torch.uint8)
    predict(learner.model, large.with_values({"TEST.IMS_PER_BATCH": at_once}), [image], [(64, 64)])
    assert sum(seen) == 9
    assert max(seen) == min(at_once, 9)


def found_of(*instances: tuple[float, int, tuple[int, int, int, int]]) -> Found:
    """Score, label and (left, top, right, bottom) in an image of 100 x 40 pixels (width, height)."""
    masks = torch.zeros(len(instances), 40, 100, dtype=torch.bool)
    for mask, (_, _, (left, top, right, bottom)) in zip(masks, instances, strict=True):
        mask[top:bottom, left:right] = True
    scores = torch.tensor([score for score, _, _ in instances])
    labels = torch.tensor([label for _, label, _ in instances], dtype=torch.int64)
    rles = encode_edges(edges_of(masks), (40, 100))
    return PackedInstances(scores, labels, rles, torch.arange(len(instances)), {"head": scores[:, None]})


def test_merging() -> None:
    """Two windows, 0 to 60 and 40 to 100."""
    windows = windows_of((40, 100), (40, 100), size=60, overlap=1 / 3)
    assert [window.left for window in windows] == [0, 40]
    left = found_of(
        (0.9, 0, (30, 0, 60, 10)),  # an object that both windows show in part
        (0.3, 0, (50, 24, 60, 30)),  # what the border leaves of an object
        (0.6, 0, (42, 31, 50, 40)),  # the same object in both, of two categories
        (0.5, 1, (42, 31, 50, 40)),
        (0.1, 1, (42, 31, 50, 40)),  # in one window, instances are not compared
    )
    right = found_of(
        (0.8, 0, (40, 0, 80, 10)),
        (0.7, 0, (52, 12, 75, 30)),
        (0.4, 0, (42, 31, 50, 40)),
    )
    found = merge_windows(windows, [left, right], 0.5, 100, MaskFormerTest())
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5, 0.1])
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.queries.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.subprobs["head"][:, 0], found.scores)
    wanted = found_of(*((0.0, 0, box) for box in ((30, 0, 80, 10), (52, 12, 75, 30), *[(42, 31, 50, 40)] * 3)))
    assert found.masks == wanted.masks
    assert merge_windows(windows, [left, right], 0.5, 2, MaskFormerTest()).masks == wanted.masks[:2]
    nothing = merge_windows(windows, [found_of(), found_of()], 0.5, 100, MaskFormerTest())
    assert len(nothing) == 0
    assert nothing.subprobs["head"].shape == (0, 1)


def test_duplicates_are_dropped_after_windows_are_merged() -> None:
    """The windows disagree on an object's category: both of its labels are merged, and then one of them is left."""
    windows = windows_of((40, 100), (40, 100), size=60, overlap=1 / 3)
    left = found_of((0.9, 0, (30, 0, 60, 10)), (0.5, 1, (30, 0, 60, 10)), (0.2, 0, (0, 20, 9, 30)))
    right = found_of((0.8, 1, (40, 0, 80, 10)), (0.4, 0, (40, 0, 80, 10)))
    found = merge_windows(windows, [left, right], 0.5, 2, MaskFormerTest(NMS_THRESHOLD=0.9))
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])  # what is dropped takes no place
    assert found.labels.tolist() == [0, 0]
    assert found.masks == found_of((0.0, 0, (30, 0, 80, 10)), (0.0, 0, (0, 20, 9, 30))).masks
    assert merge_windows(windows, [left, right], 0.5, 2, MaskFormerTest()).labels.tolist() == [0, 1]
