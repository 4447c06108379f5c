"""Weights go from Mask2Former's own code to ours and back (pytest -m reference)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reference import Setting, build_ours, build_reference, import_reference, reference_config
from raytune_m2f.config import Config
from raytune_m2f.export import export_run
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]
HEADS = {"color": 4, "texture": 3}


@pytest.fixture(autouse=True)
def mask2former() -> None:
    try:
        import_reference()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(backbone="R18", queries=20, points=64, hidden_dim=32, dim_feedforward=64, enc_layers=1, dec_layers=4)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_an_official_checkpoint_leaves_only_the_heads_new(setting: Setting, tmp_path: Path, suffix: str) -> None:
    """As detectron2's model zoo has it (.pkl, numpy), and as its trainer saves it (.pth, with more than weights)."""
    state = build_reference(setting).state_dict()
    path = tmp_path / f"model_final{suffix}"
    if suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Mask2Former"}))
    else:
        torch.save({"model": state, "optimizer": {}, "iteration": 7}, path)
    ours = build_ours(setting, HEADS)
    loaded = load_weights(ours, str(path))
    assert set(loaded.fresh) == {
        f"sem_seg_head.predictor.{head}_embed.{kind}" for head in HEADS for kind in ("weight", "bias")
    }
    assert loaded.unused == ()
    for name, value in ours.state_dict().items():
        assert name in loaded.fresh or torch.equal(value, state[name]), name


@pytest.mark.parametrize("engine", ["native", "detectron2"])
def test_an_exported_model_loads_in_mask2formers_own_code(
    tiny_config: Config, setting: Setting, tmp_path: Path, engine: str
) -> None:
    values: dict[str, Any] = {
        "ENGINE": engine,
        "MODEL.MASK_FORMER.NHEADS": 8,
        "MODEL.MASK_FORMER.DEC_LAYERS": 4,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 20,
        "SOLVER.MAX_ITER": 1,
    }
    train_trial(tiny_config.with_values(values), TrialContext(tmp_path / "run"))
    export_run(tmp_path / "run", tmp_path / "model")
    state = torch.load(tmp_path / "model/model.pth", weights_only=True)["model"]
    cfg = reference_config(setting)
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = "GN", 3
    from detectron2.modeling import build_model

    reference = build_model(cfg)
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert missing == ["criterion.empty_weight"]  # class weights, which are configuration
    assert unexpected == []  # Mask2Former's decoder does not look for what it has no use of: the heads
    for name, value in reference.state_dict().items():
        assert name in missing or torch.equal(value, state[name]), name
