"""`INPUT`, `DATASETS`, `DATALOADER`, `TEST`: images in, metrics out.

Defaults are those of Mask2Former's COCO instance YAML, else detectron2's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from raytune_m2f.config.fields.base import Problem, Section, fixed

NETWORK_NAMES = ("class", "mask", "query", "level")
"""`<name>_embed` is a head's name in the state dict of the predictor; these are Mask2Former's own."""
LOSS_NAMES = ("ce", "dice", "heatmap", "blob")
"""`loss_<name>` is a head's term of the loss; these are the network's own."""
ANNOTATION_FIELDS = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd")
"""Fields that COCO gives to every annotation."""
RESULT_FIELDS = ("score",)
"""Fields that COCO gives to every result, beside those of an annotation."""
RESULT_SUFFIXES = ("_score", "_probabilities")
"""What a result says of a head, behind the head's name."""
METRIC_GROUPS = ("segm", "vitals")
"""Metrics of a head are called `<name>/...`."""
EvaluatorName = Literal["hotcoco", "pycocotools"]


class Crop(Section):
    """`INPUT.CROP`."""

    ENABLED: bool = fixed(False, "detectron2's random crop; large-scale jitter crops to INPUT.IMAGE_SIZE instead.")


class CopyPaste(Section):
    """`INPUT.COPY_PASTE`: instances of one training image pasted into another (Ghiasi et al. 2021).

    Their labels come along, so one that depends on the surroundings (touching, say) may become wrong.
    """

    ENABLED: bool = Field(False, description="Whether instances of another training image are pasted.")
    PROB: float = Field(0.5, ge=0, le=1, description="Share of the training images that get some [probability].")
    MAX_INSTANCES: int = Field(
        0, ge=0, le=100_000, description="Instances pasted into an image, at most; 0 = no limit [instances]."
    )


class Start(Section):
    """`INPUT.START`: the first iterations at a smaller size, where a step costs less.

    Source: progressive resizing, as of Howard et al. 2018 (fast.ai in DAWNBench) and Tan and Le 2021 (EfficientNetV2).
    """

    ITERS: int = Field(
        0, ge=0, le=100_000_000, description="Iterations at START's size, before INPUT's; 0 = none [iterations]."
    )
    IMAGE_SIZE: int = Field(224, ge=32, le=8192, description="Side of a training image during START [pixels].")
    MIN_SCALE: float = Field(
        0.0, ge=0, le=100, description="Smallest resize, in units of START.IMAGE_SIZE; 0 = INPUT.MIN_SCALE [factor]."
    )
    MAX_SCALE: float = Field(
        0.0, ge=0, le=100, description="Largest resize, in units of START.IMAGE_SIZE; 0 = INPUT.MAX_SCALE [factor]."
    )


class Input(Section):
    """`INPUT`: large-scale jitter for training, a resize for testing."""

    IMAGE_SIZE: int = Field(1024, ge=32, le=8192, description="Side of a training image after the crop [pixels].")
    MIN_SCALE: float = Field(0.1, gt=0, le=100, description="Smallest resize, in units of IMAGE_SIZE [factor].")
    MAX_SCALE: float = Field(2.0, gt=0, le=100, description="Largest resize, in units of IMAGE_SIZE [factor].")
    RANDOM_FLIP: Literal["horizontal", "vertical", "none"] = Field(
        "horizontal", description="Flip of every other training image."
    )
    FORMAT: str = fixed("RGB", "Order of the channels, as MODEL.PIXEL_MEAN has them.")
    DATASET_MAPPER_NAME: str = fixed("coco_instance_lsj", "Augmentation: large-scale jitter.")
    COLOR_AUG_SSD: bool = Field(
        False, description="Whether training images change in brightness, contrast, saturation and hue, as in SSD."
    )
    SIZE_DIVISIBILITY: int = fixed(
        -1, "Padding by the mapper: none, MODEL.MASK_FORMER.SIZE_DIVISIBILITY pads [pixels]."
    )
    CROP: Crop = Crop()
    START: Start = Start()
    COPY_PASTE: CopyPaste = CopyPaste()
    MIN_SIZE_TEST: int = Field(
        800, ge=0, le=8192, description="Shorter side of a test image in the network; 0 = no resize [pixels]."
    )
    MAX_SIZE_TEST: int = Field(
        1333, ge=32, le=8192, description="Longer side of a test image in the network, at most; it wins [pixels]."
    )

    def clashes(self) -> Iterator[Problem]:
        if self.MIN_SCALE > self.MAX_SCALE:
            yield Problem(
                ("INPUT.MIN_SCALE", "INPUT.MAX_SCALE"),
                f"got {self.MIN_SCALE}, which is above INPUT.MAX_SCALE {self.MAX_SCALE}",
            )
        elif self.START.ITERS and (first := self.first).MIN_SCALE > first.MAX_SCALE:
            yield Problem(
                ("INPUT.START.MIN_SCALE", "INPUT.START.MAX_SCALE", "INPUT.MIN_SCALE", "INPUT.MAX_SCALE"),
                f"got a range from {first.MIN_SCALE} to {first.MAX_SCALE} (0 is that of INPUT): the smallest is above "
                "the largest",
            )

    @property
    def first(self) -> Input:
        """These keys as they are during START."""
        start = self.START
        return self.model_copy(
            update={
                "IMAGE_SIZE": start.IMAGE_SIZE,
                "MIN_SCALE": start.MIN_SCALE or self.MIN_SCALE,
                "MAX_SCALE": start.MAX_SCALE or self.MAX_SCALE,
            }
        )


class AnyInput(Section, extra="allow"):
    """`INPUT` of any other network: detectron2's own keys."""


class DatasetEntry(Section):
    """`DATASETS.REGISTER.<name>`: where a data set lies.

    Relative paths start at the folder of the configuration file that states them.
    """

    annotations: Path = Field(description="COCO instance annotations, JSON.")
    images: Path = Field(description="Folder of the images.")


class AnyDatasets(Section, extra="allow"):
    """`DATASETS`, whatever is learnt from them."""

    TRAIN: tuple[str, ...] = Field((), description="Names of the data sets to train on, as one; labels must agree.")
    TEST: tuple[str, ...] = Field((), max_length=1, description="Name of the data set to evaluate on.")
    REGISTER: dict[str, DatasetEntry] = Field(
        {}, description="Where data sets lie: {name: {annotations: FILE.json, images: FOLDER}}."
    )
    IMPORT: tuple[str, ...] = Field(
        (),
        description="ENGINE detectron2: modules or .py files that register data sets and models in its catalogs and "
        "registries; imported in every process.",
    )
    SUBCATEGORIES: tuple[str, ...] = fixed((), "Subcategory heads: only MultiTaskMaskFormer has them.")

    def clashes(self) -> Iterator[Problem]:
        for name in self.REGISTER:
            if not name or "." in name:
                yield Problem(
                    ("DATASETS.REGISTER",),
                    f"got the name {name!r}, allowed: a name without dots, for dots separate keys",
                )


class Datasets(AnyDatasets, extra="forbid"):
    """`DATASETS`."""

    SUBCATEGORIES: tuple[str, ...] = Field(
        (), description="Subcategory heads to train: names of integer fields of an annotation, such as subcat_1."
    )

    def clashes(self) -> Iterator[Problem]:
        yield from super().clashes()
        of_others = {f"{name}{suffix}" for name in self.SUBCATEGORIES for suffix in RESULT_SUFFIXES}
        for name, count in Counter(self.SUBCATEGORIES).items():
            if problem := _subcategory_problem(name, count):
                yield Problem(("DATASETS.SUBCATEGORIES",), f"got {name!r}, {problem}")
            elif name in of_others:
                yield Problem(
                    ("DATASETS.SUBCATEGORIES",),
                    f"got {name!r}, which the results say of the head {name.rsplit('_', 1)[0]!r}; rename the field in "
                    "the annotations",
                )


def _subcategory_problem(name: str, count: int) -> str:
    if count > 1:
        return f"{count} times; name each head once"
    if not (name.isascii() and name.isidentifier()):
        return "allowed: letters, digits and _, not beginning with a digit (rename the field in the annotations)"
    if name in NETWORK_NAMES:
        return f"which the network uses itself ({name}_embed); rename the field in the annotations"
    if name in LOSS_NAMES:
        return f"which the loss uses itself (loss_{name}); rename the field in the annotations"
    if name in ANNOTATION_FIELDS:
        return "which has its own meaning in COCO; name the field that holds the subcategory"
    if name in RESULT_FIELDS:
        return "which has its own meaning in COCO's results; rename the field in the annotations"
    if name in METRIC_GROUPS:
        return "which the metrics use themselves (segm/AP); rename the field in the annotations"
    return ""


class DataLoader(Section):
    """`DATALOADER`."""

    NUM_WORKERS: int = Field(
        4, ge=0, le=256, description="Processes that load images, per worker; 0 = none but itself [processes]."
    )
    FILTER_EMPTY_ANNOTATIONS: bool = Field(
        True, description="Whether training leaves out images without (non-crowd) instances."
    )


class AnyDataLoader(DataLoader, extra="allow"):
    """`DATALOADER` of any other network."""

    SAMPLER_TRAIN: Literal["TrainingSampler", "RepeatFactorTrainingSampler"] = Field(
        "TrainingSampler", description="The order of the training images; the second repeats those of rare classes."
    )


class AnyTiles(Section):
    """`TEST.TILES` of any other network."""

    ENABLED: bool = fixed(False, "Prediction by windows: only of MultiTaskMaskFormer.")


class Tiles(AnyTiles):
    """`TEST.TILES`: prediction by overlapping windows, for images with many small objects."""

    ENABLED: bool = Field(False, description="Whether a test image is predicted by overlapping windows.")
    SIZE: int = Field(
        256, ge=32, le=8192, description="Side of a window of the test image after its resize [pixels of the network]."
    )
    OVERLAP: float = Field(
        0.25, ge=0, le=0.9, description="What two neighbouring windows share at least, of SIZE [part of SIZE]."
    )
    NMS_THRESHOLD: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Masks of two windows are the same instance from here on: intersection over union, where both "
        "windows look [ratio].",
    )


class AnyTest(Section, extra="allow"):
    """`TEST`: evaluation, whatever is evaluated."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    EVAL_PERIOD: int = Field(
        5000, ge=0, le=100_000_000, description="Distance of evaluations; 0 = only at the end [iterations]."
    )
    SUBSET: int = Field(
        0, ge=0, le=100_000_000, description="Test images of each evaluation but the last, by SEED; 0 = all [images]."
    )
    DETECTIONS_PER_IMAGE: int = Field(
        100, ge=1, le=100_000, description="Instances kept, and counted by COCO's evaluation, per image [instances]."
    )
    EVALUATOR: EvaluatorName = Field(
        "hotcoco",
        description="What computes COCO's AP and AR; pycocotools gives the same numbers, takes longer, and is there "
        "where hotcoco is not.",
    )
    BOOTSTRAP: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Draws for segm/AP_se and segm/AP_all_se, the standard errors of these metrics; 0 = none [draws].",
    )
    IMS_PER_BATCH: int = Field(1, ge=1, le=65_536, description="Images that one worker predicts at once [images].")
    TILES: AnyTiles = AnyTiles()


class TestAugmentation(Section):
    """`TEST.AUG`."""

    ENABLED: bool = fixed(False, "Test-time augmentation: not done here.")


class Test(AnyTest, extra="forbid"):
    """`TEST`."""

    AUG: TestAugmentation = TestAugmentation()
    TILES: Tiles = Tiles()
