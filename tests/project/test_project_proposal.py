"""From the figures of a data set to a configuration: each rule by a set that it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_m2f.config import Config, load_config
from raytune_m2f.project.numbers import Numbers, Spread
from raytune_m2f.project.proposal import Device, propose
from raytune_m2f.study.space import SearchSpace, check_space

FRUITS = Numbers(
    train=13,
    val=5,
    instances=120,
    per_image=Spread(6, 9, 12, 13),
    side=Spread(480, 480, 480, 480),
    width=Spread(0.08, 0.13, 0.17, 0.2),
    categories=("date", "fig"),
    heads={"subcat_1": ("isolated", "touching")},
)


def proposed(device: Device = "cpu", **changed: Any) -> dict[str, Any]:
    """The values by key, for the fruits with other figures."""
    proposal = propose(replace(FRUITS, **changed), device)
    return {setting.key: setting.value for setting in (proposal.base, *proposal.settings)}


def test_a_small_set_gets_the_measured_values() -> None:
    values, recipe = proposed(), load_config("small_data")
    assert values["_BASE_"] == "small_data"
    differ = {key for key, value in values.items() if key != "_BASE_" and recipe.value(key) != value}
    assert differ == {"SOLVER.REFERENCE_BATCH", "SOLVER.LR_SCALING"}  # which change nothing at the recipe's batch


def test_small_objects_get_larger_images_and_scales_that_hold_them() -> None:
    values = proposed(width=Spread(0.012, 0.04, 0.09, 0.2))
    assert (values["INPUT.MIN_SIZE_TEST"], values["INPUT.MAX_SIZE_TEST"]) == (640, 640)
    assert values["INPUT.MIN_SCALE"] * 256 < 640 < values["INPUT.MAX_SCALE"] * 256
    assert "TEST.TILES.ENABLED" not in values
    assert proposed(width=Spread(0.025, 0.1, 0.2, 0.3))["INPUT.MAX_SIZE_TEST"] == 512
    assert proposed(width=Spread(0.012, 0.1, 0.3, 0.9))["INPUT.MAX_SIZE_TEST"] == 448  # 0.3 of it is half a crop


def test_huge_images_with_tiny_objects_are_predicted_by_windows() -> None:
    huge: dict[str, Any] = {"side": Spread(4000, 4000, 4000, 4000), "width": Spread(0.006, 0.01, 0.02, 0.1)}
    values = proposed(**huge)
    assert (values["TEST.TILES.ENABLED"], values["TEST.TILES.SIZE"]) == (True, values["INPUT.IMAGE_SIZE"])
    assert values["INPUT.MAX_SIZE_TEST"] == 1984  # where 0.006 of it are 12 pixels
    assert values["INPUT.MIN_SCALE"] * 256 < 1984 < values["INPUT.MAX_SCALE"] * 256
    full = proposed("gpu", train=5000, **{**huge, "width": Spread(0.003, 0.01, 0.02, 0.1)})
    assert (full["TEST.TILES.ENABLED"], full["TEST.TILES.SIZE"]) == (True, full["INPUT.IMAGE_SIZE"])


@pytest.mark.parametrize(("most", "number"), [(13, 100), (83, 100), (84, 150), (123, 150), (1000, 1200), (9999, 5000)])
def test_queries_and_detections_are_enough_for_the_fullest_image(most: int, number: int) -> None:
    values = proposed(per_image=Spread(1, 2, 3, most))
    assert values["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] == values["TEST.DETECTIONS_PER_IMAGE"] == number


@pytest.mark.parametrize(("images", "iterations"), [(13, 600), (168, 600), (400, 1400), (900, 3200), (5000, 4000)])
def test_iterations_follow_the_images_within_an_hour_of_a_cpu(images: int, iterations: int) -> None:
    values = proposed(train=images)
    assert values["SOLVER.MAX_ITER"] == iterations
    assert values["TEST.EVAL_PERIOD"] == values["SOLVER.CHECKPOINT_PERIOD"] == iterations // 4


@pytest.mark.parametrize(("categories", "iterations"), [(1, 600), (3, 600), (12, 2400), (80, 4000)])
def test_more_categories_take_longer_to_be_told_apart(categories: int, iterations: int) -> None:
    values = proposed(categories=tuple(map(str, range(categories))))
    assert values["SOLVER.MAX_ITER"] == iterations


def test_a_large_test_set_is_scored_in_part_but_for_the_end() -> None:
    assert "TEST.SUBSET" not in proposed(val=350)
    assert proposed(val=2000)["TEST.SUBSET"] == 180


def test_one_image_is_a_batch_of_one() -> None:
    assert proposed(train=1)["SOLVER.IMS_PER_BATCH"] == 1


def test_thousands_of_images_and_a_gpu_get_the_published_recipe() -> None:
    values = proposed("gpu", train=118_000, side=Spread(480, 640, 1600, 2000))
    assert values["_BASE_"] == "maskformer2_R50_instance"
    recipe = load_config("maskformer2_R50_instance")
    keys = ("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "INPUT.IMAGE_SIZE", "INPUT.MAX_SIZE_TEST")
    assert [values[key] for key in keys] == [recipe.value(key) for key in keys]
    assert values["SOLVER.STEPS"] == list(recipe.SOLVER.STEPS)
    few = proposed("gpu", train=2000)
    assert (few["SOLVER.MAX_ITER"], few["SOLVER.STEPS"]) == (6300, [5600, 6067])
    assert (few["INPUT.IMAGE_SIZE"], few["INPUT.MIN_SIZE_TEST"], few["INPUT.MAX_SIZE_TEST"]) == (512, 400, 666)
    assert proposed("gpu", train=999)["_BASE_"] == "small_data"
    assert proposed("cpu", train=5000)["_BASE_"] == "small_data"


@pytest.mark.parametrize(
    ("changed", "jitter"),
    [
        ({"heads": {"colour": ("a", "b")}}, False),
        ({"heads": {"state": ("ripe", "rotten")}}, False),
        ({"heads": {"kind": ("dark red", "light green")}}, False),
        ({"heads": {}, "categories": ("red apple", "green apple")}, False),
        ({"heads": {"kind": ("red deer", "roe")}}, None),
        ({"heads": {"touching": ("yes", "no")}}, None),
    ],
)
def test_hues_stay_where_they_tell_classes_apart(changed: dict[str, Any], jitter: bool | None) -> None:
    assert proposed(**changed).get("INPUT.COLOR_AUG_SSD") is jitter


def test_nothing_is_flipped_where_left_and_right_are_classes() -> None:
    assert proposed(heads={"side": ("left", "right", "both")})["INPUT.RANDOM_FLIP"] == "none"
    assert proposed(categories=("left hand", "right hand"))["INPUT.RANDOM_FLIP"] == "none"
    assert "INPUT.RANDOM_FLIP" not in proposed(heads={"side": ("left", "front")})


def test_the_reasons_have_the_figures() -> None:
    why = {setting.key: setting.why for setting in propose(FRUITS, "cpu").settings}
    assert "the fullest 13" in why["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"]
    assert "92 passes over 13 images" in why["SOLVER.MAX_ITER"]
    assert "nine are 26 pixels wide" in why["INPUT.MAX_SIZE_TEST"]
    assert all(why.values())


positive = st.floats(1e-4, 1)


@settings(max_examples=100, deadline=None)
@given(
    train=st.integers(1, 10**6),
    val=st.integers(1, 10**5),
    per_image=st.tuples(*[st.integers(1, 10**5)] * 4).map(sorted),
    side=st.tuples(*[st.integers(1, 60_000)] * 4).map(sorted),
    width=st.tuples(*[positive] * 4).map(sorted),
    heads=st.dictionaries(st.sampled_from(["a", "b", "colour"]), st.just(("x", "y"))),
    device=st.sampled_from(["cpu", "gpu"]),
)
def test_whatever_the_figures_the_values_are_allowed(device: Device, **figures: Any) -> None:
    spreads = {key: Spread(*map(float, figures[key])) for key in ("per_image", "side", "width")}
    numbers = replace(FRUITS, **{**figures, **spreads})
    proposal = propose(numbers, device)
    recipe = load_config(proposal.base.value)
    values = {setting.key: setting.value for setting in proposal.settings}
    config: Config = recipe.with_values({**values, "DATASETS.SUBCATEGORIES": list(numbers.heads)})
    assert {key: config.value(key) for key in values} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    space = SearchSpace.from_dict({setting.key: setting.value for setting in proposal.space})
    check_space(space, config)
    assert not space.contains(space.own_values(config))  # the first trial is in the space
