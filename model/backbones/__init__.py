"""Backbones: an image to its maps of stride 4, 8, 16 and 32. Each is an implementation of `base.Backbone`."""

from ..backbones.base import LEVELS, Backbone
from ..backbones.mobilenet_v3 import MobileNetV3
from ..backbones.resnet import ResNet
from ..backbones.swin import SwinTransformer

__all__ = ["LEVELS", "Backbone", "MobileNetV3", "ResNet", "SwinTransformer"]
