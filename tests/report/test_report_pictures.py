"""The same test images through trials with real weights, and what stands where weights are gone."""

from __future__ import annotations

import pytest
import torch
from fake_study import create_study, open_record, settings, space

from raytune_m2f.config import Config
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.progress import nobody
from raytune_m2f.report.content import read_content
from raytune_m2f.report.page import confusions, head_tables
from raytune_m2f.report.pictures import Predictor, spread
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial


@pytest.fixture(scope="module")
def study(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> StudyDirectory:
    """Two trained trials, the configuration's own values first."""
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 2})
    asked = settings(trials=2, early_stopping=EarlyStopping(method="none"), sampler="random")
    made = create_study(tmp_path_factory.mktemp("pictures") / "study", config, space(), asked)
    record = open_record(made)
    enqueue_points(record)
    for _ in range(2):
        number = record.ask()
        values = record.values(record.trial(number))
        train_trial(config.with_values(values), TrialContext(made.trial(number), device=torch.device("cpu")))
        record.settle(number, ended=True)
    return made


def test_truth_and_every_trial_on_the_same_images(study: StudyDirectory) -> None:
    content, told = read_content(study), []
    predictor = Predictor(study)
    gallery = predictor.gallery(content, 2, lambda done, total: told.append((done, total)))
    assert gallery.missing is None
    assert told == [(1, 2), (2, 2)]
    assert len({row.file for row in gallery.rows}) == 2
    for row in gallery.rows:
        assert [picture.title.partition(":")[0].partition(",")[0] for picture in row.pictures] == [
            "truth", *(f"trial {trial.number}" for trial in content.shown)
        ]  # fmt: skip
        assert all(picture.data and picture.data.startswith("data:image/webp;base64,") for picture in row.pictures)
        assert all("instance" in picture.words for picture in row.pictures)
    again = predictor.gallery(content, 2, lambda done, total: told.append((done, total)))
    assert again == gallery
    assert len(told) == 2, "nothing was predicted again"


def test_the_heads_of_the_best_trial_are_evaluated(study: StudyDirectory) -> None:
    content = read_content(study)
    heads = Predictor(study).heads(content, 100, nobody)
    assert heads.scores is not None
    assert (heads.trial, heads.images, heads.of) == (content.ranked[0].number, 6, 6)
    assert heads.scores["segm/AP"] == pytest.approx(content.ranked[0].best, abs=0.01), "on all images, as it was scored"
    tables = dict(head_tables(heads))
    joint = tables["Joint AP: category and subcategory both right"]
    assert joint.head == ("head", "joint AP", "lower bound", "upper bound")
    assert [row[0] for row in joint.rows] == ["color", "texture", "all heads together"]
    assert all(len(row) == 4 and all(row) for row in joint.rows)
    for figure in confusions(heads):
        assert len(figure.table.rows) + 1 == len(figure.table.head)


def test_a_part_of_the_test_set_is_said_to_be_one(study: StudyDirectory) -> None:
    heads = Predictor(study).heads(read_content(study), 4, nobody)
    assert (heads.images, heads.of) == (4, 6)
    assert Predictor(study).heads(read_content(study), 0, nobody).missing is not None


def test_weights_that_are_gone_are_said_to_be(study: StudyDirectory) -> None:
    """Last, for it deletes them."""
    best = read_content(study).ranked[0].number
    study.weights(best).unlink()
    content = read_content(study)
    assert content.ranked[0].number == best, "it is the best all the same"
    gallery = Predictor(study).gallery(content, 1, nobody)
    gone = [picture for picture in gallery.rows[0].pictures if picture.data is None]
    assert [picture.words for picture in gone] == [
        f"trial {best}: its weights are gone (the study keeps those of the best 5 trials)"
    ]
    heads = Predictor(study).heads(content, 10, nobody)
    assert f"trial {best}, the best, cannot be evaluated here" in str(heads.missing)


def test_images_are_spread_evenly() -> None:
    records: list[int] = list(range(10))
    assert spread(records, 3) == [0, 3, 6]  # type: ignore[arg-type,comparison-overlap]
    assert spread(records, 20) == records  # type: ignore[arg-type,comparison-overlap]
