"""Paths: relative to the file that states them, `~` and variables expanded, stored absolute."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_m2f.config import Config, load_config
from raytune_m2f.errors import ConfigError


def register(annotations: str, images: str = "/i", train: str = "[]") -> str:
    return f"DATASETS: {{TRAIN: {train}, REGISTER: {{d: {{annotations: '{annotations}', images: '{images}'}}}}}}\n"


def test_a_path_starts_at_the_file_that_states_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text(register("data/a.json", "data/i") + "MODEL: {WEIGHTS: w/r50.pth}")
    (tmp_path / "top.yaml").write_text("_BASE_: bases/base.yaml\nDATASETS: {REGISTER: {d: {images: ../own}}}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config("../top.yaml")
    entry = config.dataset("d")
    assert entry.annotations == tmp_path / "bases/data/a.json"
    assert entry.images == tmp_path.parent / "own"
    assert Path(config.MODEL.WEIGHTS) == tmp_path / "bases/w/r50.pth"

    config = load_config("../top.yaml", ["DATASETS.REGISTER.d.images=here", "MODEL.WEIGHTS=../r.pth"])
    assert config.dataset("d").images == tmp_path / "elsewhere/here"
    assert Path(config.MODEL.WEIGHTS) == tmp_path / "r.pth"


def test_variables_and_home_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_TEST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "c.yaml").write_text(
        register("${RAYTUNE_TEST_DATA}/a.json", "$RAYTUNE_TEST_DATA/i") + "MODEL: {WEIGHTS: ~/w.pth}"
    )
    config = load_config(tmp_path / "c.yaml")
    assert config.dataset("d").annotations == tmp_path / "data/a.json"
    assert config.dataset("d").images == tmp_path / "data/i"
    assert Path(config.MODEL.WEIGHTS) == tmp_path / "home/w.pth"


def test_an_unset_variable_is_named_together_with_the_other_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYTUNE_TEST_DATA", raising=False)
    (tmp_path / "c.yaml").write_text(register("${RAYTUNE_TEST_DATA}/a.json", train="[d]") + "SEED: x")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    message = str(caught.value)
    assert "c.yaml: DATASETS.REGISTER.d.annotations: got '${RAYTUNE_TEST_DATA}/a.json'" in message
    assert "the environment variable RAYTUNE_TEST_DATA is not set; set it (export RAYTUNE_TEST_DATA=...)" in message
    assert "SEED: got 'x'" in message


def test_an_unset_variable_of_a_data_set_that_nobody_uses_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYTUNE_TEST_DATA", raising=False)
    (tmp_path / "base.yaml").write_text(register("${RAYTUNE_TEST_DATA}/a.json"))
    own = "{own: {annotations: a.json, images: i}}"
    (tmp_path / "c.yaml").write_text(f"_BASE_: base.yaml\nDATASETS: {{REGISTER: {own}, TRAIN: [own], TEST: [own]}}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.dataset("own").images == tmp_path / "i"
    assert Config.from_dict(config.to_dict()) == config  # a study that is resumed reads it again
    with pytest.raises(ConfigError, match=r"DATASETS\.REGISTER\.d\.annotations: .*RAYTUNE_TEST_DATA is not set"):
        load_config(tmp_path / "c.yaml", ["DATASETS.TEST=[d]"])
    with pytest.raises(ConfigError):
        load_config(tmp_path / "c.yaml", ["DATASETS=5"])


@pytest.mark.parametrize(
    "weights", ["", "detectron2://a/b.pkl", "torchvision://ResNet50_Weights.DEFAULT", "https://example.com/$x/~/m.pth"]
)
def test_addresses_and_no_weights_are_kept_as_they_are(tmp_path: Path, weights: str) -> None:
    (tmp_path / "c.yaml").write_text(f"MODEL: {{WEIGHTS: '{weights}', RESNETS: {{NORM: BN}}}}")
    assert load_config(tmp_path / "c.yaml").value("MODEL.WEIGHTS") == weights


def test_a_saved_configuration_no_longer_depends_on_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text(register("a.json", "i"))
    config = load_config(tmp_path / "c.yaml")
    monkeypatch.chdir("/")
    assert Config.from_dict(config.to_dict()) == config
    assert config.with_values({"SEED": 1}).dataset("d") == config.dataset("d")


def test_an_unknown_home_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(register("~no_such_user_at_all/a.json", train="[d]"))
    with pytest.raises(ConfigError, match=r"DATASETS\.REGISTER\.d\.annotations: .*home"):
        load_config(tmp_path / "c.yaml")
