"""The configurations that ship with the package load, and say what they mean to say."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from raytune_m2f.config import Config, load_config

SHIPPED = sorted(Path(str(files("configs"))).glob("*.yaml"))


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_DATA", "/data")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_complete(path: Path) -> None:
    config = load_config(path)
    for name in (*config.DATASETS.TRAIN, *config.DATASETS.TEST):
        assert config.dataset(name).annotations.is_absolute()
    assert config.DATASETS.TRAIN
    assert config.DATASETS.TEST
    assert path.read_text().startswith("# "), "a configuration opens with what it is for"
    assert "raytune-m2f" in path.read_text(), "and with a command"


def test_the_published_recipe_is_the_default_one() -> None:
    config = load_config(next(path for path in SHIPPED if path.stem == "maskformer2_R50_instance"))
    default = Config().flatten()
    different = {key for key, value in config.flatten().items() if value != default.get(key)}
    assert {key for key in different if not key.startswith("DATASETS.")} == {"MODEL.META_ARCHITECTURE"}


def test_the_demo_needs_no_variable_and_leaves_something_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYTUNE_M2F_DATA")
    demo = next(path for path in SHIPPED if path.stem == "demo")
    config = load_config(demo)
    assert config.SOLVER.BASE_LR == 1e-4
    assert config.DATASETS.SUBCATEGORIES == ("color", "texture")
    assert config.dataset("shapes_train").annotations == demo.parent / "data/train.json"
