"""The pixel decoder: a deformable transformer over res5, res4, res3 and an FPN step to res2 (section 3.2.2).

Shapes: B images, C channels (CONVS_DIM), D mask channels (MASK_DIM), S cells of the three levels together.
Levels go from coarse (1/32) to fine (1/8), as the transformer decoder wants them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import MSDeformAttn, Shapes, cell_places
from .layers import Conv2d, ConvNorm, GroupNorm, Linear, sine_position_encoding, xavier_fill, xavier_uniform_matrices

ENCODER_LEVELS = ("res5", "res4", "res3")
ENCODER_FFN_WIDTH = 1024
"""The reference's width inside the encoder's feed-forward layers, whatever its DIM_FEEDFORWARD says."""


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by its norm."""

    def __init__(self, channels: int, num_heads: int, num_points: int, ffn_width: int):
        super().__init__()
        self.self_attn = MSDeformAttn(channels, len(ENCODER_LEVELS), num_heads, num_points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = Linear(channels, ffn_width, relu=True)
        self.linear2 = Linear(ffn_width, channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """(B, S, C) cells and their position encoding to (B, S, C); the others as in `MSDeformAttn`."""
        x = self.norm1(x + self.self_attn(x + position, reference, x, shapes))
        y: Tensor = self.norm2(x + self.linear2(self.linear1(x)))
        return y


class Encoder(nn.Module):
    """A stack of encoder layers; it exists for its name in the state dict."""

    def __init__(self, channels: int, num_layers: int, num_heads: int, num_points: int, ffn_width: int):
        super().__init__()
        layers = (EncoderLayer(channels, num_heads, num_points, ffn_width) for _ in range(num_layers))
        self.layers = nn.ModuleList(layers)


class DeformableTransformer(nn.Module):
    """The encoder over the flattened levels."""

    def __init__(self, channels: int, num_layers: int, num_heads: int, num_points: int, ffn_width: int):
        super().__init__()
        self.encoder = Encoder(channels, num_layers, num_heads, num_points, ffn_width)
        self.level_embed = nn.Parameter(torch.empty(len(ENCODER_LEVELS), channels))
        xavier_uniform_matrices(self)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), coarse to fine, to maps of the same shapes."""
        shapes: Shapes = [(x.shape[2], x.shape[3]) for x in levels]
        device = levels[0].device
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (B, S, C)
        position = torch.cat(
            [
                sine_position_encoding(h, w, x.shape[2], device).flatten(1).T + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        reference = cell_places(shapes, device)
        for layer in self.encoder.layers:
            x = layer(x, position, reference, shapes)
        cells = x.split([h * w for h, w in shapes], dim=1)
        return [y.transpose(1, 2).unflatten(2, shape) for y, shape in zip(cells, shapes, strict=True)]


class MSDeformAttnPixelDecoder(nn.Module):
    """From backbone features to three context maps and the per-pixel embedding.

    Args:
        in_channels: channels of res2, res3, res4 and res5.
        conv_dim: C.
        mask_dim: D.
        num_layers, num_heads, num_points: of the deformable encoder.
        ffn_width: inside its feed-forward layers, in channels.
        norm: whether the FPN convolutions have a GroupNorm.
    """

    def __init__(
        self,
        in_channels: dict[str, int],
        *,
        conv_dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        norm: bool,
        ffn_width: int = ENCODER_FFN_WIDTH,
    ):
        super().__init__()
        self.input_proj = nn.ModuleList(_projection(in_channels[level], conv_dim) for level in ENCODER_LEVELS)
        self.transformer = DeformableTransformer(conv_dim, num_layers, num_heads, num_points, ffn_width)
        self.adapter_1 = ConvNorm(in_channels["res2"], conv_dim, 1, norm=norm)
        self.layer_1 = ConvNorm(conv_dim, conv_dim, 3, norm=norm, relu=True)
        self.mask_features = Conv2d(conv_dim, mask_dim, 1)
        xavier_fill(self.mask_features)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode in float32, whatever autocast says: sampling locations need the precision.

        Returns:
            mask_features (B, D, H/4, W/4), and the three maps (B, C, h, w) from 1/32 to 1/8.
        """
        with torch.autocast(features["res2"].device.type, enabled=False):
            levels = [
                project(features[level].float()) for project, level in zip(self.input_proj, ENCODER_LEVELS, strict=True)
            ]
            levels = self.transformer(levels)
            lateral = self.adapter_1(features["res2"].float())
            fine = F.interpolate(levels[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return self.mask_features(self.layer_1(lateral + fine)), levels


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = Conv2d(in_channels, out_channels, 1)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, GroupNorm(32, out_channels))
