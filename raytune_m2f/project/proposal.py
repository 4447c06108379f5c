"""What a data set's figures ask of a configuration: keys, values, and the reason of each, with the figures in it.

Two recipes stand behind the values. `small_data` is measured in benchmarks/2026-11-26-small-data.md: 13 to 168 images,
5 minutes on a CPU core, scored at 320 pixels. `maskformer2_R50_instance` is Mask2Former's own for COCO (Cheng et al.
2022): 50 epochs in batches of 16 at a rate of 1e-4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from raytune_m2f.project.numbers import Numbers

Device = Literal["cpu", "gpu"]

MANY_IMAGES = 1000
"""From here on a GPU trains the published recipe; below, and on any CPU, `small_data`."""
WIDE_ENOUGH = 12
"""An object is found well from this width on [pixels in the network] (docs/recipe.md)."""
SMALL_CROP, SMALL_SIDE, SMALL_MOST = 256, 320, 640
"""`small_data`'s crop and test size, and the test size that costs four times as much [pixels]."""
SMALL_BATCH, SMALL_RATE, SMALL_ITERATIONS = 2, 1e-3, 600
PASSES = 7
"""Over the images, at least: what the largest measured set (168 images) has in 600 iterations."""
MOST_ON_CPU = 4000
"""Iterations in an hour on a CPU core that is half as fast as the measured one."""
SECONDS_OF_STEP, SECONDS_OF_TEST = 0.45, 0.15
"""On that core: a step of two images of 256 pixels, a test image of 320 pixels [s]."""
EVALUATIONS = 4
FULL_CROP, FULL_SIDES = 1024, (800, 1333)
"""The published crop, and shorter and longer side of a test image [pixels]."""
FULL_BATCH, FULL_RATE, EPOCHS = 16, 1e-4, 50
FULL_LEAST, FULL_MOST = 3000, 368_750
"""Iterations."""
HUGE = 1280
"""Longer side from which on images with tiny objects are predicted by windows [pixels]."""
MOST_TILED = 2048
"""The longer side of an image that is predicted so on `small_data`'s scale [pixels]."""
QUERIES, MOST_QUERIES = 100, 5000
SPARE = 1.2
"""More queries, and detections, than the fullest image has instances, for images that are fuller still."""

COLOURS = frozenset(
    "red green blue yellow orange purple violet pink brown black white grey gray golden silver beige cyan magenta".split()
)
BY_COLOUR = frozenset("color colour hue tint shade ripe ripeness unripe maturity stain".split())
"""Words in the name of a head, or of its classes, that are told apart by hue."""
SIDES = (frozenset(("left",)), frozenset(("right",)))


@dataclass(frozen=True)
class Setting:
    """A key of the configuration, its value, and why it has it."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class Proposal:
    """A configuration that builds on a shipped one, and a search space for it.

    Attributes:
        base: the shipped configuration, and why that one.
        settings: keys of one section stand together.
        space: keys with their line of a search space.
    """

    base: Setting
    settings: tuple[Setting, ...]
    space: tuple[Setting, ...]


def propose(numbers: Numbers, device: Device) -> Proposal:
    """The configuration for a data set with these figures."""
    if device == "gpu" and numbers.train >= MANY_IMAGES:
        base = f"{numbers.train} images to train on, and a GPU: Mask2Former's published recipe for COCO"
        return Proposal(
            Setting("_BASE_", "maskformer2_R50_instance", base),
            (*_shared(numbers), *_full(numbers)),
            tuple(_full_space(numbers)),
        )
    base = f"{numbers.train} images to train on" if numbers.train < MANY_IMAGES else "a CPU"
    return Proposal(
        Setting("_BASE_", "small_data", f"{base}: pretrained weights from a package, queries that stand where objects are"),
        (*_shared(numbers), *_small(numbers, device)),
        tuple(_small_space(numbers)),
    )


# Both recipes


def _shared(numbers: Numbers) -> Iterator[Setting]:
    most = round(numbers.per_image.most)
    queries = min(MOST_QUERIES, _with_spare(most))
    typical = f"an image has {numbers.per_image.median:.0f} instances, the fullest {most}"
    limit = "the published number" if queries == QUERIES else f"a fifth more than {most}, for fuller images to come"
    yield Setting("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", queries, f"{typical}: {limit}")
    limit = "COCO's 100 are enough" if queries == QUERIES else "with COCO's 100 the rest could not be found"
    yield Setting("TEST.DETECTIONS_PER_IMAGE", max(QUERIES, queries), f"the fullest image has {most} instances: {limit}")


def _with_spare(most: int) -> int:
    """Room for so many instances and some more, in fifties; not below the published 100."""
    return max(QUERIES, _up(SPARE * most, 50)) if most > QUERIES / SPARE else QUERIES


def _augmentation(numbers: Numbers) -> Iterator[Setting]:
    """What would change a label."""
    if what := _by_colour(numbers):
        why = f"{what} may be told by its colour, and this augmentation turns hues by up to 36 degrees"
        yield Setting("INPUT.COLOR_AUG_SSD", False, why)
    if what := _by_side(numbers):
        yield Setting("INPUT.RANDOM_FLIP", "none", f"{what} has left and right, which a flip would exchange")


def _by_colour(numbers: Numbers) -> str:
    """The head, or the categories, whose classes differ by hue; empty if none seems to."""
    for head, classes in numbers.heads.items():
        if _words([head]) & BY_COLOUR or _words(classes) & {"ripe", "unripe"} or len(_words(classes) & COLOURS) > 1:
            return f"the head {head}"
    return "the category" if len(_words(numbers.categories) & COLOURS) > 1 else ""


def _by_side(numbers: Numbers) -> str:
    for head, classes in numbers.heads.items():
        if all(_words(classes) & side for side in SIDES):
            return f"the head {head}"
    return "the category" if all(_words(numbers.categories) & side for side in SIDES) else ""


def _words(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in re.split(r"[^a-z]+", name.lower())}


# small_data


def _small(numbers: Numbers, device: Device) -> Iterator[Setting]:
    needed = WIDE_ENOUGH / numbers.width.low
    tiled = numbers.side.median >= HUGE and needed > 1.5 * SMALL_MOST
    side = _small_side(numbers, needed, tiled)
    iterations = _small_iterations(numbers, device)
    yield from _small_solver(numbers, iterations, device)
    yield from _small_input(numbers, needed, tiled, side)
    period = iterations // EVALUATIONS
    yield Setting("TEST.EVAL_PERIOD", period, f"{EVALUATIONS} evaluations, of {numbers.val} images each")
    if tiled:
        yield from _tiles(SMALL_CROP, numbers, side)
    test = numbers.val * SECONDS_OF_TEST * (side / SMALL_SIDE) ** 2
    if test > (budget := 0.1 * iterations * SECONDS_OF_STEP):
        subset = max(20, round(numbers.val * budget / test, -1))
        if subset < numbers.val:
            why = f"so that an evaluation takes a tenth of the training at most; the last one has all {numbers.val} images"
            yield Setting("TEST.SUBSET", int(subset), why)


def _small_side(numbers: Numbers, needed: float, tiled: bool) -> int:
    """The longer side of a test image in the network [pixels]."""
    if tiled:
        return min(_near(needed), _near(numbers.side.high), MOST_TILED)
    return max(SMALL_SIDE, min(_near(needed), SMALL_MOST))


def _small_iterations(numbers: Numbers, device: Device) -> int:
    """Iterations of two images: seven passes over the data, 600 at least, and an hour of a CPU at most."""
    wanted = max(SMALL_ITERATIONS, _up(PASSES * numbers.train / SMALL_BATCH, 100))
    return min(wanted, MOST_ON_CPU) if device == "cpu" else wanted


def _small_solver(numbers: Numbers, iterations: int, device: Device) -> Iterator[Setting]:
    batch = min(SMALL_BATCH, numbers.train)
    yield Setting("SOLVER.IMS_PER_BATCH", batch, "more updates in the same time than a larger batch; memory of a laptop")
    why = f"measured for {SMALL_BATCH} images; 1.4e-3 is faster on some sets and worse on others, 2.8e-3 diverges"
    yield Setting("SOLVER.BASE_LR", SMALL_RATE, why)
    why = "with another SOLVER.IMS_PER_BATCH the rate goes by the square root, as suits AdamW"
    yield Setting("SOLVER.REFERENCE_BATCH", SMALL_BATCH, "the batch that this rate is for")
    yield Setting("SOLVER.LR_SCALING", "sqrt", why)
    minutes = max(5, round(iterations * SECONDS_OF_STEP / 60))
    passes = iterations * batch / numbers.train
    cap = f"; no more than {MOST_ON_CPU} on a CPU" if iterations == MOST_ON_CPU and device == "cpu" else ""
    why = f"{passes:.0f} passes over {numbers.train} images; some {minutes} minutes on a CPU core{cap}. More helps while the loss falls"
    yield Setting("SOLVER.MAX_ITER", iterations, why)
    yield Setting("SOLVER.CHECKPOINT_PERIOD", iterations // EVALUATIONS, "with each evaluation")


def _small_input(numbers: Numbers, needed: float, tiled: bool, side: int) -> Iterator[Setting]:
    yield Setting("INPUT.IMAGE_SIZE", SMALL_CROP, "side of a training crop; a step's time and memory go by its square")
    low = 0.64 * side / SMALL_CROP if tiled else 0.8
    high = 1.28 * side / SMALL_CROP
    why = f"an image is {round(low * SMALL_CROP)} to {round(high * SMALL_CROP)} pixels long in training, and a crop of {SMALL_CROP} is seen"
    yield Setting("INPUT.MIN_SCALE", round(low, 2), why)
    yield Setting("INPUT.MAX_SCALE", round(high, 2), f"the test size, {side} pixels, and some more")
    yield from _augmentation(numbers)
    width = numbers.width.low * side
    why = (
        f"nine of ten objects are {width:.0f} pixels wide or more then ({WIDE_ENOUGH} are well found); images are "
        f"{_range(numbers)} pixels long in their files"
    )
    if not tiled and needed > SMALL_MOST and side == SMALL_MOST:
        why += f"; {needed:.0f} would be needed for {WIDE_ENOUGH}, and cost too much on a CPU"
    yield Setting("INPUT.MIN_SIZE_TEST", side, f"as INPUT.MAX_SIZE_TEST, which wins: the longer side is {side}")
    yield Setting("INPUT.MAX_SIZE_TEST", side, why)


def _range(numbers: Numbers) -> str:
    low, high = round(numbers.side.low), round(numbers.side.high)
    return f"{low}" if low == high else f"{low} to {high}"


def _tiles(size: int, numbers: Numbers, side: int) -> Iterator[Setting]:
    width = numbers.width.low * numbers.side.median
    why = f"images of {_range(numbers)} pixels with objects from {width:.0f} pixels on: predicted by overlapping windows"
    yield Setting("TEST.TILES.ENABLED", True, why)
    yield Setting("TEST.TILES.SIZE", size, f"what training shows the network; the whole image is {side} pixels long")


def _small_space(numbers: Numbers) -> Iterator[Setting]:
    yield Setting(
        "SOLVER.BASE_LR",
        {"type": "loguniform", "low": 4.0e-4, "high": 2.0e-3},
        "what usually decides; 1e-3 is the measured one, 2.8e-3 diverged",
    )
    yield Setting(
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
        {"type": "loguniform", "low": 0.05, "high": 0.5},
        "how much a query without an object counts; 0.1 is the published one",
    )
    if numbers.heads:
        yield Setting(
            "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT",
            {"type": "loguniform", "low": 0.5, "high": 8.0},
            f"what {', '.join(numbers.heads)} weigh beside category and mask; 2 is as the category",
        )


# The published recipe


def _full(numbers: Numbers) -> Iterator[Setting]:
    crop = min(FULL_CROP, max(512, _up(numbers.side.high, 32)))
    short, long = (round(side * crop / FULL_CROP) for side in FULL_SIDES)
    needed = WIDE_ENOUGH / numbers.width.low
    tiled = numbers.side.median >= HUGE and needed > 1.5 * long
    side = min(_near(needed), _near(numbers.side.high), 8192)
    yield from _full_solver(numbers)
    why = f"nine of ten images are {round(numbers.side.high)} pixels long or less; the published size is {FULL_CROP}"
    yield Setting("INPUT.IMAGE_SIZE", crop, why)
    if tiled:
        scale = side / crop
        why = f"objects at the size that they are tested at: a test image is {side} pixels long"
        yield Setting("INPUT.MIN_SCALE", round(0.5 * scale, 2), why)
        yield Setting("INPUT.MAX_SCALE", round(1.5 * scale, 2), "the same")
        short = long = side
    yield from _augmentation(numbers)
    yield Setting("INPUT.MIN_SIZE_TEST", short, "to INPUT.IMAGE_SIZE as published, 800 to 1024" if not tiled else "as INPUT.MAX_SIZE_TEST")
    why = f"nine of ten objects are {numbers.width.low * long:.0f} pixels wide or more in an image that is so long"
    yield Setting("INPUT.MAX_SIZE_TEST", long, why)
    period = _iterations(numbers) // 10
    yield Setting("TEST.EVAL_PERIOD", min(period, 5000), "ten evaluations or more")
    if tiled:
        yield from _tiles(crop, numbers, side)


def _iterations(numbers: Numbers) -> int:
    return max(FULL_LEAST, min(FULL_MOST, _up(EPOCHS * numbers.train / FULL_BATCH, 100)))


def _full_solver(numbers: Numbers) -> Iterator[Setting]:
    iterations = _iterations(numbers)
    why = "published; where memory does not hold so many at once, a step takes them in parts and is the same step"
    yield Setting("SOLVER.IMS_PER_BATCH", FULL_BATCH, why)
    yield Setting("SOLVER.BASE_LR", FULL_RATE, f"published, for {FULL_BATCH} images")
    yield Setting("SOLVER.REFERENCE_BATCH", FULL_BATCH, "the batch that this rate is for")
    why = "with another SOLVER.IMS_PER_BATCH the rate goes by the square root, as suits AdamW"
    yield Setting("SOLVER.LR_SCALING", "sqrt", why)
    why = f"{iterations * FULL_BATCH / numbers.train:.0f} passes over {numbers.train} images; published are {EPOCHS}"
    yield Setting("SOLVER.MAX_ITER", iterations, why)
    steps = [round(iterations * step / FULL_MOST) for step in (327_778, 355_092)]
    yield Setting("SOLVER.STEPS", steps, "the rate falls to a tenth after 89 and 96 % of the iterations, as published")
    yield Setting("SOLVER.CHECKPOINT_PERIOD", min(iterations // 10, 5000), "with each evaluation")


def _full_space(numbers: Numbers) -> Iterator[Setting]:
    yield Setting(
        "SOLVER.BASE_LR",
        {"type": "loguniform", "low": 3.0e-5, "high": 3.0e-4},
        "what usually decides; 1e-4 is the published one",
    )
    yield from list(_small_space(numbers))[1:]


def _up(value: float, step: int) -> int:
    return math.ceil(value / step) * step


def _near(value: float, step: int = 64) -> int:
    """The nearest multiple of `step`, one at least."""
    return max(step, round(value / step) * step)
