"""The multitask Mask2Former: network, matching, loss and inference. torch only.

It knows nothing of Ray, files, COCO or detectron2. The path of a batch is four files deep:
`meta_architecture`, `backbones`, `pixel_decoder`, `transformer_decoder`; then `criterion` or `inference`.
"""

from .backbones import Backbone, MobileNetV3, ResNet, SwinTransformer
from .criterion import SetCriterion, count_targets
from .matcher import LossWeights, NonFiniteError
from .meta_architecture import MultiTaskMaskFormer, build_model, pad_masks, padded_size
from .points import RandomPoints
from .structures import UNKNOWN, Instances, PackedInstances, Target
from .transformer_decoder import Outputs

__all__ = [
    "UNKNOWN",
    "Backbone",
    "Instances",
    "LossWeights",
    "MobileNetV3",
    "MultiTaskMaskFormer",
    "NonFiniteError",
    "Outputs",
    "PackedInstances",
    "RandomPoints",
    "ResNet",
    "SetCriterion",
    "SwinTransformer",
    "Target",
    "build_model",
    "count_targets",
    "pad_masks",
    "padded_size",
]
