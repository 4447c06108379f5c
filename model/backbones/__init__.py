"""Backbones: an image to its maps of stride 4, 8, 16 and 32.

base.py                Backbone, the contract, and what all share
resnet.py              ResNet-18, 34, 50 and 101
mobilenet_v3.py        MobileNetV3 small and large
efficientnet_lite.py   EfficientNet-Lite 0, 1 and 2
swin.py                Swin-T, S, B and L
"""

from ..backbones.base import LEVELS, Backbone
from ..backbones.efficientnet_lite import EfficientNetLite
from ..backbones.mobilenet_v3 import MobileNetV3
from ..backbones.resnet import ResNet
from ..backbones.swin import SwinTransformer

__all__ = ["LEVELS", "Backbone", "EfficientNetLite", "MobileNetV3", "ResNet", "SwinTransformer"]
