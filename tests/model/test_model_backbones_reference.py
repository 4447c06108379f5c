"""Parity of the Swin backbone with Mask2Former's, where that and detectron2 are on the path (pytest -m reference)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reference import import_reference
from raytune_m2f.config import load_config
from raytune_m2f.data import Categories
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.model import SwinTransformer

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

YAML = "maskformer2_swin_tiny_bs16_50ep.yaml"
SIZES = [(96, 128), (32, 32), (64, 320), (224, 224), (160, 480)]
"""With and without window padding, and with sides that one window covers at some or at all levels."""


def defaults() -> Any:
    """The reference's configuration with its defaults, a Swin-T."""
    try:
        mask2former = import_reference()
    except ImportError as error:
        pytest.skip(str(error))
    from detectron2.config import get_cfg
    from detectron2.projects.deeplab import add_deeplab_config

    cfg = get_cfg()
    add_deeplab_config(cfg)
    mask2former.add_maskformer2_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def pair(window: int, drop_path: float = 0.0) -> tuple[Any, SwinTransformer]:
    """Mask2Former's Swin with Swin-T's widths and random weights, and ours."""
    cfg = defaults()
    mask2former = pytest.importorskip("mask2former")

    cfg.MODEL.SWIN.WINDOW_SIZE, cfg.MODEL.SWIN.DROP_PATH_RATE = window, drop_path
    torch.manual_seed(0)
    reference = mask2former.modeling.D2SwinTransformer(cfg, None)
    with torch.no_grad():
        for parameter in reference.parameters():  # fresh biases and norms would hide differences: they are constants
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = SwinTransformer(
        embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=window, drop_path_rate=drop_path
    )
    return reference, ours


@torch.no_grad()
@pytest.mark.parametrize("window", [7, 12])
def test_swin_is_the_references(window: int) -> None:
    reference, ours = pair(window)
    ours.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict(), strict=True)
    reference.eval()
    ours.eval()
    for size in SIZES:
        image = torch.randn(2, 3, *size)
        wanted = reference(image)
        for level, features in ours(image).items():
            assert features.shape[1] == ours.channels[level]
            torch.testing.assert_close(features, wanted[level], atol=1e-4, rtol=0)


def test_stochastic_depth_is_the_references() -> None:
    reference, ours = pair(7, drop_path=0.3)
    wanted = [getattr(block.drop_path, "drop_prob", 0.0) for layer in reference.layers for block in layer.blocks]
    blocks = [module for name, module in ours.named_modules() if name.endswith("stochastic_depth")]
    assert [block.p for block in blocks] == pytest.approx(wanted)


def test_a_whole_network_with_a_swin_has_the_references_state_dict() -> None:
    cfg = defaults()
    mask2former = pytest.importorskip("mask2former")
    from detectron2.modeling import build_model

    path = Path(mask2former.__file__).parents[1] / "configs/coco/instance-segmentation/swin" / YAML
    cfg.merge_from_file(str(path))
    with torch.device("meta"):
        ours = build_network(load_config(path), Categories(ids=tuple(range(80)), names=tuple(map(str, range(80)))))
    wanted = {n: v.shape for n, v in build_model(cfg).state_dict().items() if not n.startswith("criterion.")}
    assert {name: value.shape for name, value in ours.state_dict().items()} == wanted
