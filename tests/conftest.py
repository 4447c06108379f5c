"""What several test modules share: data, a tiny experiment, tiny networks and random targets."""

from __future__ import annotations

import logging
import os
import sys
import warnings

# One thread for each process, as in CI: several share few cores, and what one thread adds up is the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
# Ray's workers would give way to everything else on the machine, and never come to an end on one that is busy.
os.environ.setdefault("RAY_worker_niceness", "0")

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes
from raytune_m2f.model import LossWeights, MultiTaskMaskFormer, RandomPoints, ResNet, SetCriterion, Target, build_model

HEADS = {"color": 4, "texture": 3}
DETECTRON2_ENGINE = "raytune_m2f.engines.detectron2.library"
SIZE = 64


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where `-m gpu` asks for them, tests that need a GPU are skipped by name without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """What a command has set up for its log ends with the test."""
    log = logging.getLogger("raytune_m2f")
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers = handlers
    log.setLevel(level)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real datasets (fruits_nuts, nuclei_dsb, coco_cc); tests that need it are skipped without."""
    if "RAYTUNE_M2F_DATA" not in os.environ:
        pytest.skip("RAYTUNE_M2F_DATA does not say where the real datasets are")
    return Path(os.environ["RAYTUNE_M2F_DATA"])


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Synthetic shapes, 12 images to train on and 6 to validate, 64 pixels wide: the paths of `generate_shapes`.

    Made once for all tests: read it, do not write to it.
    """
    output = tmp_path_factory.mktemp("tiny_dataset")
    return generate_shapes(output, train_images=12, val_images=6, image_size=64, max_instances=4)


@pytest.fixture
def no_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if detectron2 were not installed, whether it is or not."""
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2" or name == DETECTRON2_ENGINE]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small Ray session for all tests that need one; whatever they leave running ends with it."""
    import ray

    from raytune_m2f.launch.session import ENVIRONMENT, this_machine_alone

    os.environ.update(ENVIRONMENT)
    with this_machine_alone() as own:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray about itself
            ray.init(address="local", num_cpus=2, configure_logging=False, log_to_driver=False, **own)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def tiny_config(tiny_dataset: dict[str, Path]) -> Config:
    """The smallest experiment on `tiny_dataset`: 4 iterations of 4 images, evaluated at 2 and 4.

    GroupNorm, for batch norm sees how a batch is split.
    """
    registered = {
        name: {"annotations": str(tiny_dataset[f"{name}_annotations"]), "images": str(tiny_dataset[f"{name}_images"])}
        for name in ("train", "val")
    }
    content = {
        "MODEL": {
            "WEIGHTS": "",
            "RESNETS": {"DEPTH": 18, "NORM": "GN"},
            "SEM_SEG_HEAD": {"CONVS_DIM": 32, "MASK_DIM": 32, "TRANSFORMER_ENC_LAYERS": 1},
            "MASK_FORMER": {
                "HIDDEN_DIM": 32,
                "NHEADS": 4,
                "DEC_LAYERS": 3,
                "DIM_FEEDFORWARD": 64,
                "NUM_OBJECT_QUERIES": 8,
                "TRAIN_NUM_POINTS": 128,
            },
        },
        "DATASETS": {
            "REGISTER": registered,
            "TRAIN": ["train"],
            "TEST": ["val"],
            "SUBCATEGORIES": ["color", "texture"],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"IMAGE_SIZE": 64, "MIN_SCALE": 0.8, "MAX_SCALE": 1.25, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 64},
        "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 4, "BASE_LR": 1e-3, "WARMUP_ITERS": 0, "BACKBONE_MULTIPLIER": 1.0},
        "TEST": {"EVAL_PERIOD": 2, "IMS_PER_BATCH": 2},
    }
    return Config.from_dict(content, source="tiny_config")


@pytest.fixture(scope="session", params=[False, True], ids=["learnable", "located"])
def any_config(tiny_config: Config, request: pytest.FixtureRequest) -> Config:
    """`tiny_config` with learnable queries, and with those of a heat map."""
    values = {"MODEL.MASK_FORMER.QUERY_SELECTION": "heatmap", "MODEL.MASK_FORMER.MASK_PRIOR": True}
    return tiny_config.with_values(values) if request.param else tiny_config


@pytest.fixture(scope="session", params=[False, True], ids=["learnable", "located"])
def network(request: pytest.FixtureRequest) -> MultiTaskMaskFormer:
    """A tiny network with two subcategory heads, in evaluation mode."""
    torch.manual_seed(0)
    return tiny_network(HEADS, located=request.param).eval()


def tiny_network(
    heads: dict[str, int],
    *,
    num_queries: int = 6,
    num_classes: int = 3,
    decoder_layers: int = 3,
    located: bool = False,
) -> MultiTaskMaskFormer:
    return build_model(
        backbone=ResNet(18, "GN"),
        num_classes=num_classes,
        subcategories=heads,
        conv_dim=32,
        mask_dim=32,
        encoder_layers=1,
        num_queries=num_queries,
        hidden_dim=32,
        num_heads=4,
        dim_feedforward=64,
        decoder_layers=decoder_layers,
        query_selection=located,
        mask_prior=located,
    )


@pytest.fixture(params=[False, True], ids=["learnable", "located"])
def make_network(request: pytest.FixtureRequest) -> Callable[..., MultiTaskMaskFormer]:
    return partial(tiny_network, located=request.param)


@pytest.fixture
def criterion() -> SetCriterion:
    return SetCriterion(LossWeights(), num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75)


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """Random rectangles with random labels."""

    def make(count: int, seed: int = 0, *, classes: int = 3, heads: dict[str, int] | None = None) -> Target:
        rng = torch.Generator().manual_seed(seed)
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
        for mask in masks:
            top, left = torch.randint(0, SIZE - 24, (2,), generator=rng).tolist()
            mask[top : top + 20, left : left + 16] = True
        heads = HEADS if heads is None else heads
        labels = {name: torch.randint(0, n, (count,), generator=rng) for name, n in heads.items()}
        return Target(torch.randint(0, classes, (count,), generator=rng), masks, labels)

    return make


class SamePoints(RandomPoints):
    """Points that are the same for every mask, so that the order of instances does not matter."""

    def __init__(self) -> None:
        super().__init__([], torch.device("cpu"))

    def draw(self, image: int, *shape: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(shape[-1])
        return torch.rand(shape[-1], 2, generator=rng).expand(*shape, 2).contiguous()


@pytest.fixture
def same_points() -> RandomPoints:
    return SamePoints()


@pytest.fixture
def images() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, SIZE, SIZE), generator=rng, dtype=torch.uint8) for _ in range(2)]
