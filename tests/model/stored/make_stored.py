"""Write `*.npz` beside this file: what Mask2Former itself gives for the networks of `stored_parity`.

    PYTHONPATH=.:tests/model:<site>:<detectron2>:<Mask2Former> python tests/model/stored/make_stored.py

Run it again only if the cases change; benchmarks/README.md tells how to get the reference.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import stored_parity as parity
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reference import Setting, reference_config

TERMS = ("loss_ce", "loss_mask", "loss_dice")
ORDER = (parity.LAYERS, *range(parity.LAYERS))
"""The outputs as the reference's criterion takes them: the last one first."""


def build_reference(case: parity.Case) -> Any:
    """Mask2Former of this size, with the case's weights, as if in training but without dropped paths."""
    cfg = reference_config(Setting(backbone="swin_tiny" if case.backbone == "swin" else "R18"))
    from detectron2.modeling import build_model

    swin, head, former = cfg.MODEL.SWIN, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    swin.EMBED_DIM, swin.WINDOW_SIZE = parity.SWIN_WIDTH, parity.SWIN_WINDOW
    swin.DEPTHS, swin.NUM_HEADS = list(parity.SWIN_DEPTHS), list(parity.SWIN_HEADS)
    head.CONVS_DIM, head.MASK_DIM, head.NUM_CLASSES = case.conv_dim, case.mask_dim, parity.CLASSES
    head.TRANSFORMER_ENC_LAYERS = case.encoder_layers
    former.HIDDEN_DIM, former.DIM_FEEDFORWARD = case.hidden_dim, case.dim_feedforward
    former.NHEADS = parity.HEADS  # of the encoder as well
    former.DEC_LAYERS, former.NUM_OBJECT_QUERIES = parity.LAYERS + 1, parity.QUERIES
    former.TRAIN_NUM_POINTS, cfg.TEST.DETECTIONS_PER_IMAGE = parity.POINTS, parity.MAX_INSTANCES
    reference = build_model(cfg)
    own = {name: value for name, value in reference.state_dict().items() if not name.startswith("criterion.")}
    for name, value in parity.weights_of(own).items():
        own[name].copy_(value)
    return reference.eval()


def inputs_of(case: parity.Case) -> list[dict[str, Any]]:
    from detectron2.structures import Instances

    inputs = []
    for image, (labels, masks), (height, width) in zip(
        parity.images_of(case), parity.truth_of(case), parity.ORIGINALS, strict=True
    ):
        instances = Instances(image.shape[1:])
        instances.gt_classes, instances.gt_masks = labels, masks
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


class ReferencePoints:
    """In place of torch.rand: the case's points, in the order in which the reference asks for them.

    For each output a draw for the matching of every image, then the matched pairs' candidates, then their other points.
    A pair has its points by its rank among its image's matched instances.
    """

    def __init__(self, matcher: Any, images: int):
        self.matching = [parity.matching_points(b)[layer] for layer in ORDER for b in range(images)]
        self.layers = iter(ORDER)
        self.pairs = torch.empty(0)
        matcher.register_forward_hook(self.remember)

    def remember(self, module: Any, inputs: Any, indices: list[tuple[Tensor, Tensor]]) -> None:
        layer = next(self.layers)
        ranks = [instances.argsort().argsort() for _, instances in indices]
        self.pairs = torch.cat([parity.loss_points(b)[layer, rank] for b, rank in enumerate(ranks)])

    def __call__(self, *shape: int, **options: Any) -> Tensor:
        if shape[0] == 1 and self.matching and shape[1] == parity.POINTS:
            return self.matching.pop(0)[None]
        candidates = int(parity.OVERSAMPLE * parity.POINTS)
        points = self.pairs[:, :candidates] if shape[1] == candidates else self.pairs[:, candidates:]
        assert points.shape == shape
        return points.contiguous()


def training_of(reference: Any, case: parity.Case) -> dict[str, NDArray[Any]]:
    """Outputs, terms without their weights, and gradients of the weighted sum."""
    seen: list[dict[str, Any]] = []
    handle = reference.sem_seg_head.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    points = ReferencePoints(reference.criterion.matcher, len(case.counts))
    reference.training = True  # of the network itself alone: it returns losses
    with patch("torch.rand", points):
        losses = reference(inputs_of(case))
    sum(losses.values()).backward()
    handle.remove()
    reference.eval()
    (outputs,) = seen
    logits = [aux["pred_logits"] for aux in outputs["aux_outputs"]] + [outputs["pred_logits"]]
    names = [f"_{layer}" for layer in range(parity.LAYERS)] + [""]
    weights = reference.criterion.weight_dict
    terms = {term: np.array([float(losses[term + n]) / weights[term + n] for n in names]) for term in TERMS}
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    return {
        "pred_logits": torch.stack(logits).detach().numpy(),
        "pred_masks": outputs["pred_masks"].detach().numpy(),
        **terms,
        **parity.summary_of(gradients),
    }


@torch.no_grad()
def inference_of(reference: Any, case: parity.Case) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for b, result in enumerate(reference(inputs_of(case))):
        found = result["instances"]
        arrays |= parity.instances_as_arrays(b, found.scores, found.pred_classes, found.pred_masks)
    return arrays


def main() -> None:
    for case in parity.CASES:
        reference = build_reference(case)
        arrays = training_of(reference, case) | inference_of(reference, case)
        path = parity.FOLDER / f"{case.name}.npz"
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB, made with torch {torch.__version__}")


if __name__ == "__main__":
    main()
