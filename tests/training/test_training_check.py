"""What is refused or said before the first step of a training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import ConfigError, DatasetError, InputError
from raytune_m2f.training import checkpoint
from raytune_m2f.training.check import check_experiment
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

Change = Callable[[dict[str, Any]], None]


def changed(config: Config, folder: Path, change: Change, *splits: str) -> Config:
    """The configuration with changed annotation files."""
    content = config.to_dict()
    for split in splits:
        entry = content["DATASETS"]["REGISTER"][split]
        annotations = json.loads(Path(entry["annotations"]).read_text())
        change(annotations)
        entry["annotations"] = str(folder / f"{split}.json")
        (folder / f"{split}.json").write_text(json.dumps(annotations))
    return Config.from_dict(content)


def each(**fields: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation.update(fields)

    return change


def normalised(content: dict[str, Any]) -> None:
    """Boxes as polygons, in shares of the image's 64 pixels."""
    for a in content["annotations"]:
        x, y, w, h = (value / 64 for value in a["bbox"])
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def into_attributes(content: dict[str, Any]) -> None:
    for a in content["annotations"]:
        a["attributes"] = {"color": content["subcategories"]["color"][a.pop("color")]}


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        (each(iscrowd=1), "val", r"nothing to find in .*val\.json: all \d+ annotations are crowds"),
        (each(iscrowd=1), "train", r"nothing to learn: .*train\.json: all \d+ annotations are crowds"),
        (lambda c: c.update(annotations=[]), "train", "nothing to learn: .*12 images, but no annotation"),
        (normalised, "train", "the polygons are in 0 to 1"),
        (normalised, "val", "the polygons are in 0 to 1"),
        (into_attributes, "train", r"attributes\.color: '(red|blue)'"),
        (each(color=None), "val", r"val\.json: not one of the \d+ annotations has a label of the subcategory 'color'"),
    ],
)
def test_data_that_cannot_be_meant_are_refused_before_anything_is_written(
    tiny_config: Config, tmp_path: Path, change: Change, split: str, message: str
) -> None:
    config = changed(tiny_config, tmp_path, change, split)
    with pytest.raises(DatasetError, match=message):
        train_trial(config, TrialContext(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_of_another_size_is_refused_before_it_comes_up(
    tiny_config: Config, tmp_path: Path, split: str
) -> None:
    def wider(content: dict[str, Any]) -> None:
        content["images"][-1]["width"] += 1  # one without instances, whose masks would have the old size
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != content["images"][-1]["id"]]

    with pytest.raises(DatasetError, match=r"1 are of no use:\n  image .* 64 x 64 pixels, but .* says 65 x 64"):
        train_trial(changed(tiny_config, tmp_path, wider, split), TrialContext(tmp_path / "run"))


def test_a_batch_larger_than_the_training_set_is_refused(tiny_config: Config) -> None:
    config = tiny_config.with_values({"SOLVER.IMS_PER_BATCH": 12})
    assert check_experiment(config, build_engine(config)) == []
    config = tiny_config.with_values({"SOLVER.IMS_PER_BATCH": 13})
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 13, but there are 12 images .*Lower it to 12"):
        check_experiment(config, build_engine(config))


def test_batch_norm_of_a_single_cell_is_refused(tiny_config: Config) -> None:
    values = {"INPUT.IMAGE_SIZE": 32, "SOLVER.IMS_PER_BATCH": 1, "MODEL.RESNETS.NORM": "BN"}
    config = tiny_config.with_values(values)
    with pytest.raises(ConfigError, match="batch norm needs more than one value"):
        check_experiment(config, build_engine(config))
    for key, value in (("INPUT.IMAGE_SIZE", 33), ("SOLVER.IMS_PER_BATCH", 2), ("MODEL.RESNETS.NORM", "GN")):
        other = tiny_config.with_values({**values, key: value})
        check_experiment(other, build_engine(other))
    start = {"INPUT.IMAGE_SIZE": 64, "INPUT.START.IMAGE_SIZE": 32}
    check_experiment(config.with_values(start), build_engine(config))
    with pytest.raises(ConfigError, match=r"Raise INPUT\.START\.IMAGE_SIZE"):
        check_experiment(config.with_values({**start, "INPUT.START.ITERS": 1}), build_engine(config))


def test_what_is_worth_a_look_is_said(tiny_config: Config) -> None:
    config = tiny_config.with_values({"TEST.EVAL_PERIOD": 5000, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 2})
    queries, period = check_experiment(config, build_engine(config))
    assert queries.startswith("an image has 4 instances, but MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is 2")
    assert period.startswith("TEST.EVAL_PERIOD = 5000 is beyond SOLVER.MAX_ITER = 4: the training is evaluated only")
    config = tiny_config.with_values({"TEST.DETECTIONS_PER_IMAGE": 3})
    (cap,) = check_experiment(config, build_engine(config))
    assert "val.json: an image has 4 instances, but TEST.DETECTIONS_PER_IMAGE is 3: so many are kept of an" in cap
    config = tiny_config.with_values({"INPUT.START.ITERS": 4, "INPUT.START.IMAGE_SIZE": 32})
    (size,) = check_experiment(config, build_engine(config))
    paste = {"INPUT.COPY_PASTE.ENABLED": True, "INPUT.COPY_PASTE.MAX_INSTANCES": 3}
    config = tiny_config.with_values({**paste, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6})
    (pasted,) = check_experiment(config, build_engine(config))
    assert pasted.startswith("an image can have 7 instances with those that are pasted (INPUT.COPY_PASTE), but ")
    assert size.startswith("INPUT.START.ITERS = 4 is not below SOLVER.MAX_ITER = 4: no iteration has images of ")


def test_a_training_logs_what_was_read_once(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 1, "TEST.EVAL_PERIOD": 0})
    with caplog.at_level(logging.INFO, logger="raytune_m2f"):
        train_trial(config, TrialContext(tmp_path))
    assert caplog.text.count("what was read:") == 1
    assert "color: " in caplog.text
    assert "TEST.EVAL_PERIOD = 0: the training is evaluated only at its end" in caplog.text


@pytest.fixture(scope="module")
def begun(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped at its first report."""
    output = tmp_path_factory.mktemp("begun")
    train_trial(tiny_config.with_values({"TEST.EVAL_PERIOD": 1}), TrialContext(output, report=lambda report: True))
    return output


def more_categories(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 99, "name": "star"})


def other_order(content: dict[str, Any]) -> None:
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], reversed(names), strict=True):
        category["name"] = name


def other_classes(content: dict[str, Any]) -> None:
    content["subcategories"]["color"].append("pink")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (more_categories, "the checkpoint knows disc, ring, cross; the data have disc, ring, cross, star\n"),
        (other_order, r"disc, ring, cross; the data have cross, ring, disc \(another order\)"),
        (other_classes, "subcategory 'color': the checkpoint knows red, green, blue, yellow; the data have .*, pink"),
    ],
)
def test_a_checkpoint_of_other_labels_is_refused(
    tiny_config: Config, begun: Path, tmp_path: Path, change: Change, message: str
) -> None:
    config = changed(tiny_config, tmp_path, change, "train", "val")
    with pytest.raises(DatasetError, match=message) as error:
        train_trial(config, TrialContext(begun))
    assert f"MODEL.WEIGHTS={begun}/checkpoints/iter_0000001.pth" in str(error.value)


def test_heads_that_were_not_trained_are_other_labels(tiny_config: Config, begun: Path) -> None:
    content = tiny_config.to_dict()
    content["DATASETS"]["SUBCATEGORIES"] = ["color"]
    with pytest.raises(DatasetError, match=r"subcategory 'texture': the checkpoint knows plain.*; the data have none"):
        train_trial(Config.from_dict(content), TrialContext(begun))


def test_a_checkpoint_of_another_network_is_refused_with_the_keys(tiny_config: Config, begun: Path) -> None:
    config = tiny_config.with_values({"MODEL.MASK_FORMER.DIM_FEEDFORWARD": 96})
    with pytest.raises(ConfigError, match=r"MODEL\.MASK_FORMER\.DIM_FEEDFORWARD was 64, is 96\.") as error:
        train_trial(config, TrialContext(begun))
    assert isinstance(error.value, InputError)
    assert not list(begun.glob("checkpoints/*2.pth"))


def test_other_images_are_a_warning(
    tiny_config: Config, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fewer(content: dict[str, Any]) -> None:
        gone = content["images"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]

    config = changed(tiny_config, tmp_path, fewer, "train").with_values({"SOLVER.MAX_ITER": 1})
    with caplog.at_level(logging.WARNING, logger="raytune_m2f"):
        train_trial(config, TrialContext(begun))
    assert "the data have changed since the checkpoint: train 12 images" in caplog.text
    assert "now. Scores of before and after are not of the same data" in caplog.text


def test_ids_alone_do_not_matter(tiny_config: Config, begun: Path, tmp_path: Path) -> None:
    def other_ids(content: dict[str, Any]) -> None:
        for entry in (*content["categories"], *content["annotations"]):
            key = "id" if "name" in entry else "category_id"
            entry[key] += 100

    config = changed(tiny_config, tmp_path, other_ids, "train", "val").with_values({"SOLVER.MAX_ITER": 1})
    assert train_trial(config, TrialContext(begun))["iteration"] == 1
    assert checkpoint.newest_first(begun / "checkpoints")


def test_metrics_that_finding_little_raises_are_warned_of(tiny_config: Config) -> None:
    """One found of many can be 100 % right: such an objective would choose it."""
    engine = build_engine(tiny_config)
    texts = ["segm/AP_all + 0.5*color/found_and_right", "segm/AP - 0.1*color/accuracy", "2*texture/macro_f1"]
    plain, negative, found = (check_experiment(tiny_config, engine, asked=[Objective.parse(text)]) for text in texts)
    assert plain == negative == check_experiment(tiny_config, engine)
    (warning,) = set(found) - set(plain)
    assert "texture/macro_f1 is of the instances that were found alone" in warning
    assert "segm/AP_joint_texture and texture/found_and_right" in warning
