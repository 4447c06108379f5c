"""What a configuration is: documented, bounded, immutable, and the same after any journey."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raytune_m2f.config import Config, known_keys, load_config
from raytune_m2f.config.keys import FOREIGN_KEYS, allowed, is_section
from raytune_m2f.errors import ConfigError

LEAVES = {key: info for key, info in known_keys(Config).items() if not is_section(info.annotation)}


@pytest.fixture
def rich() -> Config:
    """A configuration with something in every kind of field."""
    return Config.from_dict(
        {
            "SOLVER": {"BASE_LR": 1e-5, "STEPS": [3, 5], "LR_SCHEDULER_NAME": "WarmupPolyLR"},
            "DATASETS": {
                "TRAIN": ["a_train"],
                "SUBCATEGORIES": ["color", "texture"],
                "REGISTER": {"a_train": {"annotations": "/data/a.json", "images": "/data/a"}},
            },
        }
    )


@pytest.mark.parametrize("info", LEAVES.values(), ids=LEAVES)
def test_every_key_is_described_and_numbers_have_units_and_bounds(info: FieldInfo) -> None:
    assert info.description
    if isinstance(info.default, int | float) and not isinstance(info.default, bool):
        assert re.search(r"\[[^\]]+\]\.$", info.description), "a number's description ends with its [unit]."
        assert re.search(r"only|from|above| or ", allowed(info)), "a number has bounds"
        assert re.search(r"only|up to| or ", allowed(info)), "a number has an upper bound"


def test_no_key_is_both_honoured_and_refused() -> None:
    known = known_keys(Config)
    assert not [key for key in FOREIGN_KEYS if key in LEAVES]
    assert not [key for key in FOREIGN_KEYS if key in known and key not in ("INPUT.CROP", "TEST.AUG")]


def test_the_defaults_are_valid_and_are_mask2formers() -> None:
    assert Config.from_dict({}) == Config()
    weights = Config().MODEL.MASK_FORMER
    assert (weights.CLASS_WEIGHT, weights.MASK_WEIGHT, weights.DICE_WEIGHT) == (2.0, 5.0, 5.0)
    assert (weights.NO_OBJECT_WEIGHT, weights.DROPOUT, weights.SUBCATEGORY_WEIGHT) == (0.1, 0.0, 2.0)
    assert Config().SOLVER.LR_SCALING == "none"
    assert Config().ENGINE == "native"


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.SEED = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.SOLVER.BASE_LR = 3.0  # type: ignore[misc]


def test_it_survives_every_journey(rich: Config, tmp_path: Path) -> None:
    assert Config.from_dict(rich.to_dict()) == rich
    assert Config.from_dict(json.loads(json.dumps(rich.to_dict()))) == rich
    assert Config.from_dict(yaml.safe_load(rich.to_yaml())) == rich
    assert pickle.loads(pickle.dumps(rich)) == rich
    assert Config().with_values(rich.flatten()) == rich
    (tmp_path / "config.yaml").write_text(rich.to_yaml())
    assert load_config(tmp_path / "config.yaml") == rich


def test_plain_types_only(rich: Config) -> None:
    def check(node: Any) -> None:
        assert type(node) in (dict, list, str, int, float, bool, type(None))
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            check(child)

    check(rich.to_dict())


def test_flatten_gives_dotted_keys_that_value_knows(rich: Config) -> None:
    flat = rich.flatten()
    assert flat["SOLVER.BASE_LR"] == rich.value("SOLVER.BASE_LR") == 1e-5
    assert flat["DATASETS.REGISTER.a_train.images"] == "/data/a"
    assert rich.value("DATASETS.REGISTER.a_train.images") == Path("/data/a")
    assert flat["SOLVER.STEPS"] == [3, 5]
    for key in flat:
        rich.value(key)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SOLVER.BASE_LRR", r"^SOLVER\.BASE_LRR: unknown key; did you mean SOLVER\.BASE_LR\?$"),
        ("SOLVER", r"^SOLVER: a section; name a key in it, such as SOLVER\.BASE_LR$"),
        ("SOLVER.BASE_LR.X", r"^SOLVER\.BASE_LR\.X: unknown key"),
        ("", r"unknown key"),
    ],
)
def test_a_value_that_does_not_exist_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config().value(key)


def test_new_values_give_a_new_configuration() -> None:
    config = Config()
    changed = config.with_values({"SOLVER.BASE_LR": 1e-3, "SOLVER.AMP.ENABLED": False, "SEED": 7})
    assert (changed.SOLVER.BASE_LR, changed.SOLVER.AMP.ENABLED, changed.SEED) == (1e-3, False, 7)
    assert config == Config()
    assert changed.with_values({}) == changed


def test_new_values_are_checked_and_their_source_is_named() -> None:
    config = Config.from_dict({"SOLVER": {"MICRO_BATCH": 8}})
    values = {"SOLVER.BASE_LR": -1, "SOLVER.BAS_LR": 1}
    with pytest.raises(ConfigError) as caught:
        config.with_values(values, source="search space x.yaml")
    assert "search space x.yaml: SOLVER.BASE_LR: got -1, allowed: a number above 0" in str(caught.value)
    assert "search space x.yaml: SOLVER.BAS_LR: unknown key; did you mean SOLVER.BASE_LR?" in str(caught.value)
    assert len(config.problems(values)) == 2
    with pytest.raises(ConfigError, match=r"^trial 7: SOLVER\.MICRO_BATCH: got 8, more than the global batch"):
        config.with_values({"SOLVER.IMS_PER_BATCH": 4}, source="trial 7")
    assert config.problems({"SOLVER.IMS_PER_BATCH": 8}) == []


def test_a_registered_data_set_is_found_and_another_one_is_not(rich: Config) -> None:
    assert rich.dataset("a_train").annotations == Path("/data/a.json")
    with pytest.raises(ConfigError) as caught:
        rich.dataset("coco_2017_val")
    message = str(caught.value)
    assert message.startswith("DATASETS.REGISTER: the data set 'coco_2017_val' is not registered (registered: a_train)")
    snippet = yaml.safe_load(message[message.index("\nDATASETS:") :])
    added = Config.from_dict(snippet)  # what is shown can be pasted
    assert added.dataset("coco_2017_val").images == Path.cwd() / "path/to/images"
