"""The masked-attention transformer decoder with one classifier per task (section 3.2.1, equations 2 and 3).

Shapes: B images, Q queries, C channels (HIDDEN_DIM), D mask channels, K categories, K_k classes of head k,
L supervised outputs (the learnable queries' and one after each layer), S cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MLP, Conv2d, Linear, linear, sine_position_encoding, xavier_fill, xavier_uniform_matrices

NUM_LEVELS = 3


@dataclass(frozen=True)
class Outputs:
    """What the network predicts for a batch; the last of the L outputs is the one to use.

    Attributes:
        pred_logits: (L, B, Q, K + 1), the last class is "no object".
        pred_sublogits: for each subcategory head (L, B, Q, K_k + 1), the last class is "no object".
        mask_embed: (L, B, Q, D).
        mask_features: (B, D, H/4, W/4). A mask is the product of the two; built only where it is needed.
    """

    pred_logits: Tensor
    pred_sublogits: dict[str, Tensor]
    mask_embed: Tensor
    mask_features: Tensor

    @property
    def pred_masks(self) -> Tensor:
        """(B, Q, H/4, W/4): the mask logits of the last output; after autocast the two may differ in their types."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed[-1].float(), self.mask_features.float())


class Attention(nn.MultiheadAttention):
    """torch's parameters, with one boolean mask shared by all heads instead of a float one for each."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__(channels, num_heads, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Attend where `allowed` (B, Q, S) is True; (B, Q, C), (B, S, C), (B, S, C) -> (B, Q, C)."""
        inputs = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (
            linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, weight, bias in inputs
        )
        mask = None if allowed is None else allowed[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return linear(y.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)


class CrossAttentionLayer(nn.Module):
    """Equation 2: queries attend to the cells inside their own predicted mask."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.multihead_attn = Attention(channels, num_heads)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """(B, Q, C) queries, (B, S, C) keys and values, (B, Q, S) bool cells that each query sees, to (B, Q, C)."""
        y: Tensor = self.norm(x + self.multihead_attn(x + query_pos, key, value, allowed))
        return y


class SelfAttentionLayer(nn.Module):
    """Queries attend to each other."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor, query_pos: Tensor) -> Tensor:
        """(B, Q, C) queries and their position encoding to (B, Q, C)."""
        placed = x + query_pos
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x))
        return y


class FFNLayer(nn.Module):
    """The feed-forward network of a decoder layer."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear1 = Linear(channels, width, relu=True)
        self.linear2 = Linear(width, channels)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) to (B, Q, C)."""
        y: Tensor = self.norm(x + self.linear2(self.linear1(x)))
        return y


class MultiTaskTransformerDecoder(nn.Module):
    """Learnable queries become instances: a category, one class per subcategory head, and a mask.

    Args:
        in_channels: channels of the pixel decoder's maps.
        num_classes: K.
        subcategories: number of classes K_k of each subcategory head; `<name>_embed` is its classifier.
        num_queries: Q.
        hidden_dim: C.
        mask_dim: D.
        num_heads: attention heads.
        dim_feedforward: width of the feed-forward networks.
        num_layers: decoder layers (DEC_LAYERS - 1).
        enforce_input_proj: project the maps even if `in_channels` equals `hidden_dim`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        subcategories: Mapping[str, int],
        num_queries: int,
        hidden_dim: int,
        mask_dim: int,
        num_heads: int,
        dim_feedforward: int,
        num_layers: int,
        enforce_input_proj: bool,
    ):
        super().__init__()
        self.num_layers = num_layers
        self.subcategories = tuple(subcategories)
        layers = range(num_layers)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(hidden_dim, dim_feedforward) for _ in layers)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.input_proj = nn.ModuleList()
        for _ in range(NUM_LEVELS):
            project = in_channels != hidden_dim or enforce_input_proj
            conv = Conv2d(in_channels, hidden_dim, 1)
            xavier_fill(conv)
            self.input_proj.append(conv if project else nn.Identity())
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        for name, classes in subcategories.items():
            self.add_module(f"{name}_embed", Linear(hidden_dim, classes + 1))
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    def forward(self, levels: list[Tensor], mask_features: Tensor) -> Outputs:
        """Decode.

        Args:
            levels: three maps (B, in_channels, h, w) from 1/32 to 1/8.
            mask_features: (B, D, H/4, W/4).
        """
        B = len(mask_features)
        keys, values = zip(*(self._keys_and_values(i, x) for i, x in enumerate(levels)), strict=True)
        # resizing is linear, so the masks' resized logits are the products with resized features; channels last once,
        # or on a CPU every call makes that copy for itself
        features = mask_features.detach().contiguous(memory_format=torch.channels_last)
        resized = [
            F.interpolate(features, size=x.shape[-2:], mode="bilinear", align_corners=False).flatten(2) for x in levels
        ]
        query_pos = self.query_embed.weight.expand(B, -1, -1)
        x = self.query_feat.weight.expand(B, -1, -1)
        decoded = [self.decoder_norm(x)]
        embeds = [self.mask_embed(decoded[-1])]
        for i in range(self.num_layers):
            level = i % NUM_LEVELS
            allowed = attention_mask(embeds[-1].detach(), resized[level])
            x = self.transformer_cross_attention_layers[i](x, query_pos, keys[level], values[level], allowed)
            x = self.transformer_self_attention_layers[i](x, query_pos)
            x = self.transformer_ffn_layers[i](x)
            decoded.append(self.decoder_norm(x))
            embeds.append(self.mask_embed(decoded[-1]))
        return self._predict(torch.stack(decoded), torch.stack(embeds), mask_features)

    def _keys_and_values(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, C) each: the cells of a level with and without their position encoding."""
        value = self.input_proj[level](x).flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        position = sine_position_encoding(x.shape[2], x.shape[3], value.shape[2], x.device)
        return value + position.flatten(1).T, value

    def _predict(self, decoded: Tensor, mask_embed: Tensor, mask_features: Tensor) -> Outputs:
        """Every classifier reads the decoder's output for this image, in every layer."""
        sublogits = {name: self.get_submodule(f"{name}_embed")(decoded) for name in self.subcategories}
        return Outputs(self.class_embed(decoded), sublogits, mask_embed, mask_features)


def attention_mask(mask_embed: Tensor, features: Tensor) -> Tensor:
    """Equation 3: a query may look where its mask has probability 0.5 or more; everywhere if that is nowhere.

    Args:
        mask_embed: (B, Q, D).
        features: (B, D, S), the mask features at the level's size.

    Returns:
        (B, Q, S) bool, True where attention is allowed.
    """
    allowed = torch.einsum("bqd,bds->bqs", mask_embed, features) >= 0
    return allowed | ~allowed.any(-1, keepdim=True)
