"""What a job takes along: one configuration whose paths are the cluster's, a search space, modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raytune_m2f.cluster.pack import pack_config, pack_space
from raytune_m2f.config import Config
from raytune_m2f.errors import ConfigError, SearchSpaceError

DATA = "DATASETS: {REGISTER: {train: {annotations: '%s', images: /data/train}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    path.mkdir()
    return path


def packed(path: Path, folder: Path, *overrides: str) -> Config:
    """The configuration as the job reads it."""
    pack_config(path, overrides, folder)
    return Config.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))


def test_files_and_overrides_become_one_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 100, BASE_LR: 0.1}\nSEED: 1\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.01}\n")
    config = packed(tmp_path / "own.yaml", folder, "SEED=7")
    assert (config.SOLVER.MAX_ITER, config.SOLVER.BASE_LR, config.SEED) == (100, 0.01, 7)


def test_paths_are_those_of_the_nodes(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_DATA", "/on/this/machine")
    (tmp_path / "own.yaml").write_text(DATA % "${CLUSTER_DATA}/train.json")
    pack_config(tmp_path / "own.yaml", ["MODEL.WEIGHTS=$NOT_SET_HERE/model.pth"], folder)
    sent = yaml.safe_load((folder / "config.yaml").read_text())
    assert sent["DATASETS"]["REGISTER"]["train"] == {
        "annotations": "${CLUSTER_DATA}/train.json", "images": "/data/train",
    }  # fmt: skip
    assert sent["MODEL"]["WEIGHTS"] == "$NOT_SET_HERE/model.pth"


@pytest.mark.parametrize("path", ["data/train.json", "~/train.json", "../train.json"])
def test_a_path_of_this_machine_is_refused(tmp_path: Path, folder: Path, path: str) -> None:
    (tmp_path / "own.yaml").write_text(DATA % path)
    with pytest.raises(ConfigError, match=r"DATASETS.REGISTER.train.annotations: got .*absolute"):
        pack_config(tmp_path / "own.yaml", [], folder)
    assert list(folder.iterdir()) == []


def test_a_relative_path_that_is_overridden_does_not_matter(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "own.yaml").write_text(DATA % "train.json")
    config = packed(tmp_path / "own.yaml", folder, "DATASETS.REGISTER.train.annotations=/shared/train.json")
    assert config.DATASETS.REGISTER["train"].annotations == Path("/shared/train.json")


def test_a_wrong_key_is_refused_here(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "own.yaml").write_text("SOLVER: {BASE_RL: 0.1}\n")
    with pytest.raises(ConfigError, match="BASE_LR"):
        pack_config(tmp_path / "own.yaml", [], folder)


def test_a_space_of_the_users_is_sent_and_a_shipped_one_is_named(tmp_path: Path, folder: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}\n")
    config = Config.from_dict({})
    assert pack_space("learning_rate", folder, config) == "learning_rate"
    assert list(folder.iterdir()) == []
    assert pack_space(str(own), folder, config) == "space.yaml"
    assert yaml.safe_load((folder / "space.yaml").read_text())["SOLVER.BASE_LR"]["low"] == 1e-5
    with pytest.raises(SearchSpaceError, match="no such"):
        pack_space(str(tmp_path / "other.yaml"), folder)
