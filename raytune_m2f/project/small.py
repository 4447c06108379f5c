"""Values for `small_data`: some ten to some hundred images, or a CPU.

Measured in benchmarks/2026-11-26-small-data.md on sets of 13 to 168 images: 600 iterations of two images, crops of 256
pixels, scored at 320 pixels, 5 minutes on a CPU core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from raytune_m2f.project.numbers import Numbers
from raytune_m2f.project.settings import (
    HUGE,
    WIDE_ENOUGH,
    Setting,
    augmentation,
    balance,
    instances,
    near,
    rate,
    sides,
    tiles,
    up,
    width_needed,
)

CROP, SIDE, MOST_SIDE = 256, 320, 640
"""Training crop and test size of the recipe, and the test size that costs four times as much [pixels]."""
LOW = 0.8
"""INPUT.MIN_SCALE of the recipe, which shows nearly the whole image in a crop."""
MOST_TILED = 2048
"""The longer side of a test image that is predicted by windows [pixels]: some 120 of them."""
BATCH, RATE, ITERATIONS = 2, 1e-3, 600
PASSES = 7
"""Over the images, at least: what the largest measured set has in 600 iterations."""
ITERATIONS_PER_CATEGORY = 200
"""At least: the measured sets have one to four categories; twelve had hardly begun to be told apart after 600."""
MOST_ON_CPU = 4000
"""Iterations in an hour on a CPU core half as fast as the measured one."""
SECONDS_OF_STEP, SECONDS_OF_TEST = 0.45, 0.15
"""On that core: a step of two images of 256 pixels, a test image of 320 pixels [s]."""
EVALUATIONS = 4


def small_settings(numbers: Numbers, device: Literal["cpu", "gpu"]) -> Iterator[Setting]:
    """The values for a data set; keys of one section stand together."""
    needed = width_needed(numbers)
    tiled = numbers.side.median >= HUGE and needed > 1.5 * MOST_SIDE
    side = max(SIDE, min(near(needed), MOST_SIDE, _largest_side(numbers)))
    if tiled:
        side = min(near(needed), near(numbers.side.high), MOST_TILED)
    iterations = _iterations(numbers, device)
    yield from instances(numbers)
    scored = _scored(numbers, iterations, side)
    seconds = iterations * SECONDS_OF_STEP + ((EVALUATIONS - 1) * scored + numbers.val) * _seconds_of_test(side)
    yield from _solver(numbers, iterations, device, minutes=max(5, round(seconds / 60)))
    yield from _input(numbers, side, tiled=tiled)
    yield from _test(numbers, iterations, scored)
    if tiled:
        yield from tiles(numbers, CROP, side)


def _largest_side(numbers: Numbers) -> int:
    """Up to here nine of ten objects are half as wide as a crop at most: a larger one is seldom seen whole."""
    return near(CROP / 2 / numbers.width.high)


def _iterations(numbers: Numbers, device: str) -> int:
    passes = up(PASSES * numbers.train / BATCH, 100)
    wanted = max(ITERATIONS, passes, ITERATIONS_PER_CATEGORY * len(numbers.categories))
    return min(wanted, MOST_ON_CPU) if device == "cpu" else wanted


def _why_more(numbers: Numbers, iterations: int) -> str:
    if iterations != ITERATIONS_PER_CATEGORY * len(numbers.categories) or iterations == ITERATIONS:
        return ""
    return f"; {ITERATIONS_PER_CATEGORY} iterations for each of {len(numbers.categories)} categories"


def _solver(numbers: Numbers, iterations: int, device: str, *, minutes: int) -> Iterator[Setting]:
    batch = min(BATCH, numbers.train)
    why = "more steps in the same time than with a larger batch; 1.4 GB of memory in the measured trainings on a CPU"
    yield Setting("SOLVER.IMS_PER_BATCH", batch, why if batch == BATCH else "there is one image to train on")
    why = f"measured for {BATCH} images; 1.4e-3 was better on some sets and worse on others, 2.8e-3 diverged"
    yield Setting("SOLVER.BASE_LR", RATE, why)
    yield from rate(BATCH)
    why = (
        f"{iterations * batch / numbers.train:.0f} passes over {numbers.train} images, some {minutes} minutes on a CPU "
        f"core{_why_more(numbers, iterations)}; as long as the loss falls, more helps"
    )
    if device == "cpu" and iterations == MOST_ON_CPU:
        why += ". That is an hour on a slow core; the rules ask for as much or more"
    yield Setting("SOLVER.MAX_ITER", iterations, why)
    yield Setting("SOLVER.CHECKPOINT_PERIOD", iterations // EVALUATIONS, "with each evaluation")


def _input(numbers: Numbers, side: int, *, tiled: bool) -> Iterator[Setting]:
    low, high = round(_smallest(numbers, side, tiled=tiled) / CROP, 2), round(1.28 * side / CROP, 2)
    yield Setting("INPUT.IMAGE_SIZE", CROP, "side of a training crop; time and memory of a step go by its square")
    why = f"in training an image is {low * CROP:.0f} to {high * CROP:.0f} pixels long, and a crop of it is seen"
    if low > LOW and not tiled:
        why += f"; if it were smaller, half of the objects were below {WIDE_ENOUGH} pixels"
    yield Setting("INPUT.MIN_SCALE", low, why)
    yield Setting("INPUT.MAX_SCALE", high, f"the test size, {side} pixels, and some more")
    yield from augmentation(numbers)
    yield Setting("INPUT.MIN_SIZE_TEST", side, "the same, so that the longer side alone decides")
    yield Setting("INPUT.MAX_SIZE_TEST", side, _why_side(numbers, side))


def _smallest(numbers: Numbers, side: int, *, tiled: bool) -> float:
    """How long an image is in training at least [pixels]: half of the objects are wide enough then."""
    if tiled:
        return 0.64 * side  # as 0.8 times 256 is of 320
    return max(LOW * CROP, min(WIDE_ENOUGH / numbers.width.median, side / 2))


def _why_side(numbers: Numbers, side: int) -> str:
    why = (
        f"of ten objects nine are {numbers.width.low * side:.0f} pixels wide or more in an image so long "
        f"({WIDE_ENOUGH} are found well); in their files the images are {sides(numbers)} long"
    )
    if side < near(width_needed(numbers)) and side in (MOST_SIDE, _largest_side(numbers)):
        price = "take too much time" if side == MOST_SIDE else "make many objects larger than half a training crop"
        why += f". {width_needed(numbers):.0f} would make them {WIDE_ENOUGH}, but {price}"
    return why


def _seconds_of_test(side: int) -> float:
    return SECONDS_OF_TEST * (side / SIDE) ** 2


def _scored(numbers: Numbers, iterations: int, side: int) -> int:
    """Images of each evaluation but the last: all, unless so few are enough that it takes a tenth of the training."""
    some = max(20, round(0.1 * iterations * SECONDS_OF_STEP / _seconds_of_test(side), -1))
    return numbers.val if some > numbers.val / 2 else int(some)


def _test(numbers: Numbers, iterations: int, scored: int) -> Iterator[Setting]:
    yield Setting("TEST.EVAL_PERIOD", iterations // EVALUATIONS, f"{EVALUATIONS} evaluations of {scored} images")
    if scored < numbers.val:
        why = f"each takes a tenth of the training then; the last one is of all {numbers.val} images"
        yield Setting("TEST.SUBSET", scored, why)


def small_space(numbers: Numbers) -> Iterator[Setting]:
    """What a study of a dozen trials may change."""
    why = f"what usually decides; {RATE:g} is the measured rate, and 2.8e-3 diverged: both ends are in the range"
    yield Setting("SOLVER.BASE_LR", {"type": "loguniform", "low": 3.0e-4, "high": 3.0e-3}, why)
    yield from balance(numbers)
