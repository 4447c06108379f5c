"""The multitask Mask2Former: network, matching, loss and inference. torch only.

It knows nothing of Ray, files, COCO or detectron2. The path of a batch is four files deep: `meta_architecture`,
`backbones`, `pixel_decoder`, `transformer_decoder`; then `criterion` or `inference`. Sections and equations are those
of Mask2Former, unless another paper is named.

meta_architecture.py      MultiTaskMaskFormer: images in, outputs or instances out
pixel_decoder.py          a deformable transformer over three levels, and the mask features
deformable_attention.py   its attention, for each kind of device
transformer_decoder.py    masked attention of the queries; one classifier per task
layers.py                 small layers and the position encoding
inference.py              from outputs to instances
masks.py                  from mask logits to masks at the image's size, kept as their edges
query_selection.py        located queries: peaks of a heat map, and masks that begin there
criterion.py              the loss
object_loss.py            the loss of the heat map
matcher.py                assignment of queries to instances
points.py                 points on masks, where matching and loss compare
structures.py             Target, Instances, PackedInstances
"""

from .backbones import Backbone, EfficientNetLite, MobileNetV3, ResNet, SwinTransformer
from .criterion import SetCriterion, count_targets
from .inference import Choice
from .masks import Edges, Frame, edges_of
from .matcher import LossWeights, NonFiniteError
from .meta_architecture import MultiTaskMaskFormer, build_model, pad_masks, padded_size
from .points import RandomPoints
from .structures import UNKNOWN, Instances, PackedInstances, Target
from .transformer_decoder import MAIN, Outputs

__all__ = [
    "MAIN",
    "UNKNOWN",
    "Backbone",
    "Choice",
    "Edges",
    "EfficientNetLite",
    "Frame",
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
    "edges_of",
    "pad_masks",
    "padded_size",
]
