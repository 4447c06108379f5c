"""Perfect predictions score 100, or it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import Content, changed, named, sound_config

from raytune_m2f.config import Config
from raytune_m2f.doctor import scoring
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.finding import Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.engines.datasets import NativeEngine
from raytune_m2f.evaluation import evaluator

Dataset = dict[str, Path]
KEYS = {
    "segm/AP",
    "segm/AP_joint_color",
    "segm/AP_joint_texture",
    "segm/AP_all",
    "color/accuracy",
    "texture/accuracy",
}


def truth(config: Config | Subject) -> Finding:
    subject = config if isinstance(config, Subject) else Subject(config)
    (finding,) = examine(subject, named("evaluator/truth"))
    return finding


@pytest.mark.parametrize("name", ["hotcoco", "pycocotools"])
def test_ground_truth_scores_100(tiny_dataset: Dataset, name: str) -> None:
    finding = truth(sound_config(tiny_dataset, TEST__EVALUATOR=name))
    assert finding.level == "ok"
    assert finding.values == pytest.approx(dict.fromkeys(KEYS, 100.0))
    assert "6 of 6 test images" in finding.figure


def test_without_heads_too(tiny_dataset: Dataset) -> None:
    finding = truth(sound_config(tiny_dataset, DATASETS__SUBCATEGORIES=[]))
    assert (finding.level, finding.values) == ("ok", {"segm/AP": pytest.approx(100.0)})


def test_unknown_labels_and_crowds_do_not_lower_it(tiny_dataset: Dataset, tmp_path: Path) -> None:
    def change(content: Content) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["color"] = annotation["color"] if number % 3 else None
        content["annotations"][-1]["iscrowd"] = 1

    assert truth(sound_config(changed(tiny_dataset, tmp_path, change, "val"))).level == "ok"


def test_what_the_cap_cuts_off_is_no_fault_of_the_evaluator(tiny_dataset: Dataset) -> None:
    finding = truth(sound_config(tiny_dataset, TEST__DETECTIONS_PER_IMAGE=1))
    assert finding.level == "ok"
    assert "100 but for what TEST.DETECTIONS_PER_IMAGE cuts off (see data/instances)" in finding.figure
    assert finding.values["segm/AP"] < 99


def test_a_mask_without_a_pixel_is_the_reason(tiny_dataset: Dataset, tmp_path: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0].update(segmentation=[[70, 8, 90, 8, 90, 30]], bbox=[70, 8, 20, 22])

    finding = truth(sound_config(changed(tiny_dataset, tmp_path, change, "val")))
    assert finding.level == "warning"
    assert "do not score 100: segm/AP " in finding.figure
    assert "annotation 1 has no pixel in its image" in finding.meaning


@pytest.mark.parametrize(
    ("fault", "lowered"),
    [
        ("category", "segm/AP"),
        ("segmentation", "segm/AP"),
        ("color", "color/accuracy"),
        ("color", "segm/AP_joint_color"),
    ],
)
def test_an_evaluator_that_is_wrong_is_a_problem(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fault: str, lowered: str
) -> None:
    """Predictions that lose their place on the way to COCO's results."""
    right = evaluator.instances_to_results

    def wrong(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        results = right(*args, **kwargs)
        shifted = [dict(result) for result in results]
        keys = {"category": ["category_id"], "segmentation": ["segmentation"]}.get(fault, [])
        for result, other in zip(shifted, [*results[1:], *results[:1]], strict=True):
            result.update({key: other[key] for key in keys})
            if fault == "color":
                result["color_probabilities"] = result["color_probabilities"][::-1]
        return shifted

    monkeypatch.setattr(evaluator, "instances_to_results", wrong)
    finding = truth(sound_config(tiny_dataset))
    assert finding.level == "problem"
    assert finding.values[lowered] < 99
    assert lowered in finding.figure
    assert "the scores cannot be trusted" in finding.meaning


def test_other_networks_give_results_of_their_own(tiny_dataset: Dataset) -> None:
    """As the engine of any model of detectron2's: boxes, no heads, samples of another kind."""
    config = sound_config(tiny_dataset, DATASETS__SUBCATEGORIES=[])
    subject = Subject(config)
    subject.engine = NativeEngine(config)
    subject.engine.tasks = ("segm", "bbox")
    subject.engine.to_results = lambda dataset, sample, prediction: (sample, prediction)
    assert truth(subject).values == {"segm/AP": pytest.approx(100.0)}


def test_of_a_large_set_some_images_are_scored(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "INSTANCES", 6)
    finding = truth(sound_config(tiny_dataset))
    assert finding.level == "ok"
    assert "of 6 test images" in finding.figure
    assert "6 of 6" not in finding.figure
