"""A study goes on with the data that it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import create_study

from raytune_m2f.config import Config
from raytune_m2f.drive.runner import run_study
from raytune_m2f.errors import StudyError
from raytune_m2f.study.plan import compare_data, data_fingerprints
from raytune_m2f.study.settings import Budget, StudySettings
from raytune_m2f.study.space import SearchSpace

CONTENT: dict[str, Any] = {
    "images": [{"id": 1}, {"id": 2}],
    "annotations": [{"id": 1}],
    "categories": [{"id": 9, "name": "blue"}, {"id": 3, "name": "red"}],
    "subcategories": {"size": ["small", "large"], "other": ["a"]},
}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    entries = {name: {"annotations": str(tmp_path / f"{name}.json"), "images": str(tmp_path)} for name in ("a", "gone")}
    return Config.from_dict(
        {"DATASETS": {"REGISTER": entries, "TRAIN": ["a"], "TEST": ["gone"], "SUBCATEGORIES": ["size"]}}
    )


def rewrite(config: Config, change: Change) -> None:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    Path(config.DATASETS.REGISTER["a"].annotations).write_text(json.dumps(content))


def test_a_fingerprint_is_of_what_is_here(config: Config) -> None:
    data = data_fingerprints(config)
    assert list(data) == ["a"]
    assert (data["a"]["images"], data["a"]["annotations"]) == (2, 1)
    assert data["a"]["categories"] == ["red", "blue"]  # in the order of labels
    assert json.loads(json.dumps(data)) == data


def test_the_same_data_say_nothing(config: Config) -> None:
    assert compare_data(config, data_fingerprints(config), "study") == []
    assert compare_data(config, {}, "study") == []  # a study of before there were fingerprints


def test_other_numbers_are_a_note(config: Config) -> None:
    before = data_fingerprints(config)
    rewrite(config, lambda content: content["images"].append({"id": 3}))
    (note,) = compare_data(config, before, "study")
    assert "a.json has changed since the study began (2 images and 1 annotations then, 3 and 1 now)" in note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c["categories"].append({"id": 4, "name": "green"}),
            "categories: red, blue before, red, green, blue",
        ),
        (lambda c: c["categories"][0].update(id=1), "categories: red, blue before, blue, red now"),
        (lambda c: c["subcategories"].update(size=["s"]), "subcategory 'size': small, large before, s now"),
        (lambda c: c.pop("subcategories"), "subcategory 'size': small, large before, none now"),
    ],
)
def test_other_labels_are_refused(config: Config, change: Change, says: str) -> None:
    before = data_fingerprints(config)
    rewrite(config, change)
    with pytest.raises(StudyError, match="the data of my/study have other labels than when it began") as error:
        compare_data(config, before, "my/study")
    assert says in str(error.value)


def test_heads_that_are_not_trained_do_not_matter(config: Config) -> None:
    before = data_fingerprints(config)
    rewrite(config, lambda content: content["subcategories"].update(other=["b"]))
    assert len(compare_data(config, before, "study")) == 1


def test_a_file_that_is_gone_or_broken_is_left_to_the_trials(config: Config) -> None:
    before = data_fingerprints(config)
    file = Path(config.DATASETS.REGISTER["a"].annotations)
    for text in ("{", "[]", "null", '{"images": 3, "annotations": [], "categories": []}', "[" * 100_000):
        file.write_text(text)
        assert compare_data(config, before, "study") == []
    file.unlink()
    assert compare_data(config, before, "study") == []


def test_a_study_goes_on_with_its_own_labels_only(tiny_config: Config, tmp_path: Path) -> None:
    content = tiny_config.to_dict()
    entry = content["DATASETS"]["REGISTER"]["train"]
    annotations = json.loads(Path(entry["annotations"]).read_text())
    entry["annotations"] = str(tmp_path / "train.json")
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    space = SearchSpace.from_dict({"SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-5, "high": 1e-2}})
    settings = StudySettings(budget=Budget(trials=1))
    study = create_study(tmp_path / "study", Config.from_dict(content), space, settings)
    annotations["categories"].append({"id": 99, "name": "star"})
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    with pytest.raises(StudyError, match=r"train\.json: categories: disc, ring, cross before, .*, star now"):
        run_study(study.root)
