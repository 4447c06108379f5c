"""`SOLVER` and `MODEL_EMA`: optimizer, schedule, batch, averaged weights.

Defaults are those of Mask2Former's COCO instance YAML.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from raytune_m2f.config.fields.base import Problem, Section, fixed


class ClipGradients(Section):
    """`SOLVER.CLIP_GRADIENTS`."""

    ENABLED: bool = Field(True, description="Whether gradients are clipped.")
    CLIP_TYPE: str = fixed("full_model", "One norm over all parameters, as in Mask2Former.")
    CLIP_VALUE: float = Field(0.01, gt=0, le=1e6, description="Largest norm of the whole gradient [norm].")
    NORM_TYPE: float = fixed(2.0, "The Euclidean norm; Mask2Former computes no other [exponent].")


class Amp(Section):
    """`SOLVER.AMP`: automatic mixed precision, on GPUs."""

    ENABLED: bool = Field(True, description="Whether a GPU trains in mixed precision; a CPU never does.")
    PRECISION: Literal["bfloat16", "float16"] = Field(
        "bfloat16", description="The lower precision; float16 (with loss scaling) for GPUs without bfloat16."
    )


class ModelEma(Section):
    """`MODEL_EMA`: an average of the weights of all steps, in d2go's keys."""

    ENABLED: bool = Field(
        False, description="Whether averaged weights are evaluated and exported, instead of those of the last step."
    )
    DECAY: float = Field(
        0.999,
        ge=0,
        le=0.999_999,
        description="How much of the average is kept at each step: 1 / (1 - DECAY) steps [share].",
    )
    DECAY_WARM_UP_FACTOR: int = Field(
        10, ge=-1, le=1_000_000, description="Until then (1 + step) / (this + step), if it is less; -1 = no [steps]."
    )


class AnySolver(Section, extra="allow"):
    """What training needs to know of `SOLVER`, whatever the network and its optimizer."""

    BASE_LR: float = Field(
        1e-4, gt=0, le=10, description="Peak learning rate at REFERENCE_BATCH; see LR_SCALING [per optimizer step]."
    )
    IMS_PER_BATCH: int = Field(
        16, ge=1, le=65_536, description="Images per optimizer step, over all workers and accumulation steps [images]."
    )
    MICRO_BATCH: int = Field(
        0, ge=0, le=65_536, description="Images that one worker takes at once; 0 = its share of the batch [images]."
    )
    LR_SCALING: Literal["none", "linear", "sqrt"] = Field(
        "none", description="How the learning rate follows IMS_PER_BATCH / REFERENCE_BATCH."
    )
    REFERENCE_BATCH: int = Field(
        16, ge=1, le=65_536, description="Batch for which BASE_LR is meant; see LR_SCALING [images]."
    )
    MAX_ITER: int = Field(368_750, ge=1, le=100_000_000, description="Length of the training [iterations].")
    CHECKPOINT_PERIOD: int = Field(
        5000, ge=1, le=100_000_000, description="Distance of checkpoints; each evaluation saves one too [iterations]."
    )
    AMP: Amp = Amp()

    def clashes(self) -> Iterator[Problem]:
        if self.MICRO_BATCH > self.IMS_PER_BATCH:
            yield Problem(
                ("SOLVER.MICRO_BATCH", "SOLVER.IMS_PER_BATCH"),
                f"got {self.MICRO_BATCH}, more than the global batch, SOLVER.IMS_PER_BATCH "
                f"{self.IMS_PER_BATCH}; lower it, or 0 for automatic",
            )


class Solver(AnySolver, extra="forbid"):
    """`SOLVER`."""

    OPTIMIZER: str = fixed("ADAMW", "Optimizer.")
    BACKBONE_MULTIPLIER: float = Field(
        0.1, ge=0, le=100, description="The backbone's learning rate in units of BASE_LR; 1 from scratch [factor]."
    )
    WEIGHT_DECAY: float = Field(0.05, ge=0, le=10, description="AdamW's decay of weights and biases [per unit of LR].")
    WEIGHT_DECAY_NORM: float = Field(0.0, ge=0, le=10, description="Decay of normalisation layers [per unit of LR].")
    WEIGHT_DECAY_EMBED: float = Field(0.0, ge=0, le=10, description="Decay of Embedding layers [per unit of LR].")
    LR_SCHEDULER_NAME: Literal["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"] = Field(
        "WarmupMultiStepLR",
        description="Schedule of the learning rate: steps, a cosine to 0, or a power of what is left.",
    )
    STEPS: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (327_778, 355_092),
        description="WarmupMultiStepLR: when the rate is multiplied by GAMMA; those after MAX_ITER never come "
        "[iterations].",
    )
    GAMMA: float = Field(0.1, gt=0, le=1, description="WarmupMultiStepLR: factor at each of STEPS [factor].")
    POLY_LR_POWER: float = Field(
        0.9, gt=0, le=10, description="WarmupPolyLR: exponent of the share that is left [exponent]."
    )
    POLY_LR_CONSTANT_ENDING: float = Field(
        0.0, ge=0, le=1, description="WarmupPolyLR: smallest multiple of the peak rate, kept to the end [factor]."
    )
    WARMUP_FACTOR: float = Field(
        1.0, ge=0, le=1, description="Where the warm-up starts, in units of the peak rate [factor]."
    )
    WARMUP_ITERS: int = Field(10, ge=0, le=10_000_000, description="Length of the warm-up [iterations].")
    WARMUP_METHOD: Literal["linear", "constant"] = Field(
        "linear", description="The rate rises evenly during the warm-up, or waits at WARMUP_FACTOR."
    )
    CLIP_GRADIENTS: ClipGradients = ClipGradients()

    def clashes(self) -> Iterator[Problem]:
        yield from super().clashes()
        if any(later <= earlier for earlier, later in pairwise(self.STEPS)):
            yield Problem(("SOLVER.STEPS",), f"got {list(self.STEPS)}, allowed: iterations in increasing order")
