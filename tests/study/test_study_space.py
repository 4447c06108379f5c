"""Search spaces: what they may say, what they refuse, and that every trial drawn from one is a valid configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_m2f.config import Config
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.space import SearchSpace, check_space, load_space, packaged_spaces

LR, BATCH, QUERIES = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
ENTRIES: dict[str, dict[str, Any]] = {
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-3},
    BATCH: {"type": "categorical", "choices": [4, 8, 16]},
    QUERIES: {"type": "int", "low": 20, "high": 300, "step": 10},
    "SOLVER.WEIGHT_DECAY": {"type": "uniform", "low": 0.0, "high": 0.1},
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": {"type": "int", "low": 16, "high": 4096, "log": True},
}
RICH: dict[str, dict[str, Any]] = {
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-3, "points": 3},
    BATCH: {"type": "categorical", "choices": [4, 8, 16]},
    "MODEL.MASK_FORMER.CLASS_WEIGHT": {"type": "share", "low": 0.5, "high": 10.0, "points": 2},
    "MODEL.MASK_FORMER.MASK_WEIGHT": {"type": "share", "low": 0.5, "high": 10.0, "when": {BATCH: [4, 8]}},
}


def problems_of(entries: dict[str, Any], config: Config | None = None) -> str:
    with pytest.raises(SearchSpaceError) as caught:
        check_space(SearchSpace.from_dict(entries, source="s"), config or Config())
    return str(caught.value)


def between(low: float, high: float, kind: str = "uniform", **more: object) -> dict[str, Any]:
    return {"type": kind, "low": low, "high": high, **more}


def choices(*values: object) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


def test_every_type_becomes_optunas_distribution_in_the_order_of_the_file() -> None:
    space = SearchSpace.from_dict(ENTRIES)
    check_space(space, Config())
    assert list(space.distributions) == list(ENTRIES)
    assert list(space.distributions.values()) == [
        FloatDistribution(1e-5, 1e-3, log=True),
        CategoricalDistribution([4, 8, 16]),
        IntDistribution(20, 300, step=10),
        FloatDistribution(0.0, 0.1),
        IntDistribution(16, 4096, log=True),
    ]


def test_it_survives_study_yaml() -> None:
    space = SearchSpace.from_dict(ENTRIES, source="s")
    assert SearchSpace.from_dict(yaml.safe_load(yaml.safe_dump(space.to_dict())), source="s") == space
    assert space.to_dict()[LR] == ENTRIES[LR]
    rich = SearchSpace.from_dict(RICH)
    assert rich.to_dict() == RICH
    assert SearchSpace.from_dict(yaml.safe_load(yaml.safe_dump(rich.to_dict()))) == rich


def test_numbers_may_be_written_as_text() -> None:
    """PyYAML reads `1e-5` as text."""
    entries = yaml.safe_load(f"{LR}: {{type: loguniform, low: 1e-5, high: 1e-3}}")
    assert isinstance(entries[LR]["low"], str)
    assert SearchSpace.from_dict(entries).distributions[LR] == FloatDistribution(1e-5, 1e-3, log=True)


def test_own_values_are_a_point_of_the_space() -> None:
    space, config = (
        SearchSpace.from_dict(ENTRIES),
        Config.from_dict({"MODEL": {"MASK_FORMER": {"TRAIN_NUM_POINTS": 64}}}),
    )
    own = space.own_values(config)
    assert own[LR] == 1e-4
    assert list(own) == list(ENTRIES)
    assert space.contains(own) == []


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        (LR, [1e-5, 1e-3, 5e-4], [9e-6, 1.1e-3, "1e-4", True, None]),
        (BATCH, [4, 16], [5, "4", 32]),
        (QUERIES, [20, 30, 300], [19, 25, 310, 30.5]),
        ("SOLVER.WEIGHT_DECAY", [0.0, 0, 0.1], [-0.1, 0.2]),
        ("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", [16, 17, 4096], [15, 4097]),
        ("SEED", [], [0]),
    ],
)
def test_contains_names_what_lies_outside(key: str, inside: list[Any], outside: list[Any]) -> None:
    space = SearchSpace.from_dict(ENTRIES)
    for value in inside:
        assert space.contains({key: value}) == []
    for value in outside:
        assert space.contains({key: value, LR: 1e-4} if key != LR else {key: value}) == [key]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "got 3, allowed: a range such as {type: loguniform"),
        ({}, "got type None, allowed: uniform, loguniform, int, categorical, share"),
        (between(1, 2, "log_uniform"), "got type 'log_uniform', allowed: .*; did you mean loguniform"),
        ({"type": "int", "low": 1}, "high missing; write for example {type: int"),
        ({"type": "int"}, "low and high missing"),
        ({"type": "categorical"}, r"choices missing; write for example {type: categorical, choices: \[4, 8, 16\]}"),
        (
            {"type": "uniform", "low": 1, "hig": 2},
            "got 'hig', allowed for uniform: low, high, points, when, prior; did you mean high",
        ),
        (between(0.1, 1, step=0.1), "got 'step', allowed for uniform: low, high"),
        (between(0.1, 1, log=True), "got 'log', allowed for uniform: low, high"),
        (between(2, 1), "got low 2 and high 1, allowed: low < high"),
        (between(1, 1), "got low 1 and high 1, allowed: low < high; a single value belongs in the configuration"),
        (between(5, 5, "int"), "got low 5 and high 5, allowed: low < high"),
        (between(0, 1, "loguniform"), "got low 0, allowed: above 0, for the range is logarithmic"),
        (between(0, 8, "int", log=True), "got low 0, allowed: 1 or more, for the range is logarithmic"),
        (
            between(20, 305, "int", step=10),
            "got high 305, which steps of 10 from 20 never reach; write high: 300 or high: 310",
        ),
        (between(1, 9, "int", step=2, log=True), "got log: true with step 2, allowed: one of them, not both"),
        (between(1, 9, "int", step=0), "got step 0, allowed: 1 or more"),
        (between(1, 9, "int", step=-1), "got step -1, allowed: 1 or more"),
        (between(1, 9.5, "int"), "got high 9.5, allowed: a whole number"),
        (between(1, 9, "int", log="yes"), "got log 'yes', allowed: true or false"),
        (between(0, 1, points=1), "got points 1, allowed: 2 or more"),
        (between(0, 1, points=2.5), "got points 2.5, allowed: a whole number"),
        (between(1, 9, "int", points=3), "got points 3, allowed: only with log: true, for a grid takes every step"),
        ({**choices(1, 2), "points": 2}, "got 'points', allowed for categorical: choices, when, prior"),
        (between(0, 1, "share"), "got low 0, allowed: above 0"),
        (between(0, 1, when=BATCH), f"got when '{BATCH}', allowed: a key and its values, such as when: {{"),
        (between(0, 1, when={BATCH: []}), rf"got when {BATCH} \[\], allowed: one of its choices or a list of them"),
        (between(0, 1, when={BATCH: None}), f"got when {BATCH} None, allowed: one of its choices"),
        ({"type": ["int"]}, r"got type \['int'\], allowed: uniform"),
        ({"type": "uniform", "low": "a", "high": 2}, "got low 'a', allowed: a number"),
        ({"type": "uniform", "low": False, "high": True}, "got low False, allowed: a number"),
        (between(0, float("inf")), "got high inf, allowed: a number"),
        ({"type": "categorical", "choices": 4}, "got choices 4, allowed: a list"),
        (choices(), r"got choices \[\], allowed: two or more"),
        (choices(4), r"got choices \[4\], allowed: two or more"),
        (choices(4, 4.0), "some are equal"),
        (choices([1], 2), r"got the choice \[1\], allowed: a number, text"),
    ],
)
def test_a_wrong_entry_is_refused_with_what_is_allowed(entry: object, message: str) -> None:
    with pytest.raises(SearchSpaceError, match=rf"^s: {LR}: .*{message}"):
        SearchSpace.from_dict({LR: entry}, source="s")


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match="s: the search space is empty; add a line such as"):
        SearchSpace.from_dict({}, source="s")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SOLVER.BASE_LRR", "unknown key; did you mean SOLVER.BASE_LR?"),
        ("SOLVER", "a section; name a key in it, such as SOLVER."),
        ("SOLVER.STEPS", "cannot be tuned: its value is a list"),
        ("SOLVER.MAX_ITER", "cannot be tuned: trials of different length could not be compared"),
        ("TEST.DETECTIONS_PER_IMAGE", "cannot be tuned: trials evaluated in different ways could not be compared"),
        ("DATASETS.TRAIN", "cannot be tuned: trials on different data could not be compared"),
        ("DATASETS.REGISTER.a.images", "unknown key"),
        ("ENGINE", "cannot be tuned: a study never mixes engines"),
        ("VERSION", "cannot be tuned"),
        ("MODEL.WEIGHTS", "cannot be tuned: other weights are another experiment"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "detectron2 knows this key, but it is not honoured here"),
    ],
)
def test_a_key_that_cannot_be_searched_is_refused(key: str, message: str) -> None:
    assert problems_of({key: between(1, 2)}).startswith(f"s: {key}: {message}")


def test_the_seed_the_ranking_and_sieves_may_be_searched() -> None:
    """`MODEL.MASK_FORMER.TEST` is not `TEST`."""
    check_space(
        SearchSpace.from_dict(
            {
                "SEED": between(0, 9, "int"),
                "MODEL.MASK_FORMER.TEST.RANKING": choices("main", "sum", "logits", "product"),
                "MODEL.MASK_FORMER.TEST.CLASS_THRESHOLD": between(0, 0.5),
                "MODEL.MASK_FORMER.TEST.NMS_THRESHOLD": between(0.3, 1.0),
                "MODEL.MASK_FORMER.TEST.NMS_CLASS_AGNOSTIC": choices(True, False),
                "MODEL.MASK_FORMER.TEST.SUBCATEGORY_THRESHOLD": between(0, 0.5),
                "MODEL.MASK_FORMER.TEST.DROP_NO_OBJECT": choices("none", "any", "all"),
            }
        ),
        Config.from_dict({"DATASETS": {"SUBCATEGORIES": ["color"]}}),
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({LR: between(1e-5, 20, "loguniform")}, f"s: {LR}: got 20.0, allowed: a number above 0 up to 10"),
        ({LR: between(-1, 1)}, f"s: {LR}: got -1.0, allowed"),
        ({BATCH: between(1, 8)}, f"s: {BATCH}: got 1.0, allowed: a whole number"),
        ({"SOLVER.OPTIMIZER": choices("ADAMW", "SGD")}, "s: SOLVER.OPTIMIZER: got 'SGD', allowed: only 'ADAMW'"),
        ({"SOLVER.LR_SCALING": choices("none", "cubic")}, "s: SOLVER.LR_SCALING: got 'cubic', allowed: 'none' or"),
        # valid at both ends, not between
        ({"MODEL.MASK_FORMER.HIDDEN_DIM": between(64, 128, "int")}, "HIDDEN_DIM: got 65, allowed"),
        ({"MODEL.MASK_FORMER.NHEADS": between(8, 16, "int")}, "NHEADS: got 9, which does not divide"),
        # valid each alone, not together
        (
            {"INPUT.MIN_SCALE": between(0.1, 1), "INPUT.MAX_SCALE": between(0.5, 2)},
            "got 1.0, which is above INPUT.MAX_SCALE",
        ),
    ],
)
def test_a_value_in_the_range_that_is_no_configuration_is_refused(entries: dict[str, Any], message: str) -> None:
    assert message in problems_of(entries)


def test_a_space_is_checked_against_the_configuration_that_it_is_for() -> None:
    space = {BATCH: choices(4, 8)}
    check_space(SearchSpace.from_dict(space), Config())
    config = Config.from_dict({"SOLVER": {"MICRO_BATCH": 8}})
    assert problems_of(space, config).startswith("s: SOLVER.MICRO_BATCH: got 8, more than the global batch")


def test_values_replaced_by_the_space_do_not_clash_with_the_configurations_own() -> None:
    config = Config.from_dict({"INPUT": {"MIN_SCALE": 0.1, "MAX_SCALE": 0.2}})
    check_space(
        SearchSpace.from_dict({"INPUT.MIN_SCALE": between(0.3, 0.4), "INPUT.MAX_SCALE": between(0.5, 2)}), config
    )


def test_all_problems_are_named_at_once() -> None:
    message = problems_of({"SOLVER.BASE_LRR": between(1, 2), "ENGINE": choices("a", "b"), LR: between(-1, 1)})
    assert message.startswith("3 problems:\n  s: SOLVER.BASE_LRR")
    both = SearchSpace.from_dict
    with pytest.raises(SearchSpaceError, match=r"^2 problems:\n  s: a: .*\n  s: b: "):
        both({"a": 1, "b": 2}, source="s")


def test_every_trial_of_every_packaged_space_is_a_valid_configuration() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = Config()
    for name, path in packaged_spaces().items():
        space = load_space(name, config)
        assert path.read_text().startswith("# "), "a space opens with what it is for"
        assert f"--space {name}" in path.read_text(), "with a command"
        assert "# Trials: " in path.read_text(), "and with how many trials make sense"
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(20):
            values = space.suggest(study.ask())
            assert space.contains(values) == []
            config.with_values(space.resolve(values, config))


def test_packaged_spaces_contain_mask2formers_own_point() -> None:
    """The published values go first, so they must lie inside; the demo's queries are the demo's."""
    assert set(packaged_spaces()) == {"ablation", "default", "demo", "learning_rate", "loss_weights", "queries"}
    for name in packaged_spaces():
        space = load_space(name, Config())
        assert set(space.contains(space.own_values(Config()))) <= ({QUERIES} if name == "demo" else set())


def test_a_space_of_ones_own_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(ENTRIES, sort_keys=False))
    assert list(load_space(path, Config()).distributions) == list(ENTRIES)
    path.write_text(f"{LR}: {{type: uniform, low: 2, high: 1}}")
    with pytest.raises(SearchSpaceError, match=rf"^{path}: {LR}: got low 2"):
        load_space(str(path), Config())
    path.write_text(f"{LR}: 1\n{LR}: 2\n")
    with pytest.raises(SearchSpaceError, match="given twice"):
        load_space(path, Config())


def test_a_space_that_does_not_exist_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        SearchSpaceError, match=r"^defualt: no such search space; did you mean default\? Allowed: .*demo"
    ):
        load_space("defualt", Config())
