"""The typed keys of any other network's configuration: those that training reads. The others are detectron2's."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from raytune_m2f.config.fields.base import Section, fixed
from raytune_m2f.config.fields.data import AnyDatasets, AnyTest, DataLoader
from raytune_m2f.config.fields.solver import AnySolver


class OtherModel(Section):
    """`MODEL`."""

    model_config = ConfigDict(extra="allow")

    META_ARCHITECTURE: str = Field("", description="Name of the network in detectron2's registry.")
    WEIGHTS: str = Field(
        "",
        description='Weights to start from: a path or an address (detectron2://..., https://...); "" = from scratch.',
    )
    COMPILE: bool = fixed(False, "torch.compile: of our own network only.")


class OtherAmp(Section):
    """`SOLVER.AMP`."""

    ENABLED: bool = Field(False, description="Whether a GPU trains in mixed precision; a CPU never does.")
    PRECISION: Literal["bfloat16", "float16"] = Field(
        "float16", description="The lower precision; detectron2's own is float16 (with loss scaling)."
    )


class OtherSolver(AnySolver):
    """`SOLVER`."""

    model_config = ConfigDict(extra="allow")

    AMP: OtherAmp = OtherAmp()


class OtherInput(Section):
    """`INPUT`."""

    model_config = ConfigDict(extra="allow")


class OtherDatasets(AnyDatasets):
    """`DATASETS`."""

    model_config = ConfigDict(extra="allow")

    SUBCATEGORIES: tuple[str, ...] = fixed((), "Subcategory heads: only MultiTaskMaskFormer has them.")


class OtherDataLoader(DataLoader):
    """`DATALOADER`."""

    model_config = ConfigDict(extra="allow")

    SAMPLER_TRAIN: Literal["TrainingSampler", "RepeatFactorTrainingSampler"] = Field(
        "TrainingSampler", description="The order of the training images; the second repeats those of rare classes."
    )


class OtherTest(AnyTest):
    """`TEST`."""

    model_config = ConfigDict(extra="allow")
