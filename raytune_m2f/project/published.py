"""Values for `maskformer2_R50_instance`, Mask2Former's recipe for COCO: thousands of images and a GPU.

Source: Cheng et al. 2022, Masked-attention Mask Transformer, and its configuration: 50 epochs of 118,000 images in
batches of 16 at a rate of 1e-4, crops of 1024 pixels, tested at 800 to 1333 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

from raytune_m2f.project.numbers import Numbers
from raytune_m2f.project.settings import (
    HUGE,
    LARGEST_SIDE,
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

CROP, SIDES = 1024, (800, 1333)
"""Training crop; shorter and longer side of a test image [pixels]."""
SMALLEST_CROP = 512
BATCH, RATE, EPOCHS = 16, 1e-4, 50
LEAST, MOST = 3000, 368_750
STEPS = (327_778, 355_092)
"""Iterations."""


def published_settings(numbers: Numbers) -> Iterator[Setting]:
    """The values for a data set; keys of one section stand together."""
    crop = min(CROP, max(SMALLEST_CROP, up(numbers.side.high, 32)))
    short, long = (round(side * crop / CROP) for side in SIDES)
    iterations = max(LEAST, min(MOST, up(EPOCHS * numbers.train / BATCH, 100)))
    tiled = numbers.side.median >= HUGE and width_needed(numbers) > 1.5 * long
    yield from instances(numbers)
    yield from _solver(numbers, iterations)
    why = f"in their files the images are {sides(numbers)} long; {CROP} is the published size, and the largest here"
    yield Setting("INPUT.IMAGE_SIZE", crop, why)
    if tiled:
        short = long = min(near(width_needed(numbers)), near(numbers.side.high), LARGEST_SIDE)
        why = "objects in training are about as large as in a test"
        yield Setting("INPUT.MIN_SCALE", round(0.5 * long / crop, 2), why)
        yield Setting("INPUT.MAX_SCALE", round(1.5 * long / crop, 2), why)
    yield from augmentation(numbers)
    why = (
        "so that the longer side alone decides"
        if tiled
        else f"to INPUT.IMAGE_SIZE as the published {SIDES[0]} to {CROP}"
    )
    yield Setting("INPUT.MIN_SIZE_TEST", short, why)
    width = numbers.width.low * long
    why = f"of ten objects nine are {width:.0f} pixels wide or more in an image so long"
    yield Setting("INPUT.MAX_SIZE_TEST", long, why)
    yield Setting("TEST.EVAL_PERIOD", _period(iterations), "ten evaluations at least")
    if tiled:
        yield from tiles(numbers, crop, long)


def _solver(numbers: Numbers, iterations: int) -> Iterator[Setting]:
    why = "as published; where memory does not hold so many at once they are taken in parts, and the step is the same"
    yield Setting("SOLVER.IMS_PER_BATCH", BATCH, why)
    yield Setting("SOLVER.BASE_LR", RATE, f"as published, for {BATCH} images")
    yield from rate(BATCH)
    why = f"{iterations * BATCH / numbers.train:.0f} passes over {numbers.train} images; published are {EPOCHS}"
    yield Setting("SOLVER.MAX_ITER", iterations, why)
    steps = [round(iterations * step / MOST) for step in STEPS]
    yield Setting("SOLVER.STEPS", steps, "the rate falls to a tenth at 89 and at 96 % of the training, as published")
    yield Setting("SOLVER.CHECKPOINT_PERIOD", _period(iterations), "with each evaluation")


def _period(iterations: int) -> int:
    return min(5000, iterations // 10)


def published_space(numbers: Numbers) -> Iterator[Setting]:
    """What a study of a dozen trials may change."""
    why = f"what usually decides; {RATE:g} is the published rate"
    yield Setting("SOLVER.BASE_LR", {"type": "loguniform", "low": 3.0e-5, "high": 3.0e-4}, why)
    yield from balance(numbers)
