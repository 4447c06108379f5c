"""The network: shapes, independence of images, and what each head reads."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from raytune_m2f.model import Choice, MultiTaskMaskFormer, ResNet, build_model, pad_masks, padded_size
from raytune_m2f.model.inference import Ranking
from raytune_m2f.model.layers import sine_position_encoding
from raytune_m2f.model.transformer_decoder import attention_mask


def test_every_output_has_its_shape(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    outputs = network(images)
    assert outputs.pred_logits.shape == (4, 2, 6, 3 + 1)
    assert outputs.pred_sublogits["color"].shape == (4, 2, 6, 4 + 1)
    assert outputs.pred_sublogits["texture"].shape == (4, 2, 6, 3 + 1)
    assert outputs.pred_masks.shape == (2, 6, 16, 16)


def test_a_batch_gives_what_its_images_give_alone(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    together = network(images)
    for i, image in enumerate(images):
        alone = network([image])
        torch.testing.assert_close(together.pred_logits[:, i], alone.pred_logits[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.pred_masks[i], alone.pred_masks[0], atol=1e-4, rtol=1e-4)
        for name, logits in together.pred_sublogits.items():
            torch.testing.assert_close(logits[:, i], alone.pred_sublogits[name][:, 0], atol=1e-5, rtol=1e-4)


def test_an_image_of_32_pixels_gives_alone_what_it_gives_in_a_batch(network: MultiTaskMaskFormer) -> None:
    """Its coarsest map has one cell, and with 32 channels each group of a norm a single number."""
    rng = torch.Generator().manual_seed(2)
    tiny = [torch.randint(0, 256, (3, 32, 20), generator=rng, dtype=torch.uint8) for _ in range(2)]
    together, alone = network(tiny), network(tiny[:1])
    torch.testing.assert_close(together.pred_logits[:, 0], alone.pred_logits[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.pred_masks[0], alone.pred_masks[0], atol=1e-4, rtol=1e-4)
    assert len(network.predict(tiny[:1], [(8, 5)], max_instances=3)[0]) == 3


def test_predictions_of_a_batch_are_those_of_its_images(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    sizes = [(64, 64), (128, 96)]
    together = network.predict(images, sizes, max_instances=10)
    for image, size, instances in zip(images, sizes, together, strict=True):
        (alone,) = network.predict([image], [size], max_instances=10)
        assert instances.masks.shape == (min(10, 3 * counting(network, image)), *size)
        torch.testing.assert_close(instances.scores, alone.scores, atol=1e-5, rtol=1e-4)
        for name, probs in instances.subprobs.items():
            torch.testing.assert_close(probs, alone.subprobs[name], atol=1e-5, rtol=1e-4)


def test_subcategory_logits_differ_between_images(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    """They come from the decoder's output for the image, not from the query weights or the last image."""
    logits = network(images).pred_sublogits["color"][-1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_kept_instances_carry_the_subcategories_of_their_own_query(
    network: MultiTaskMaskFormer, images: list[Tensor]
) -> None:
    outputs = network(images)
    (instances, _) = network.predict(images, [(64, 64)] * 2, max_instances=7)
    expected = outputs.pred_sublogits["texture"][-1, 0].softmax(-1)[instances.queries, :-1]
    torch.testing.assert_close(instances.subprobs["texture"], expected)


@pytest.mark.parametrize("ranking", get_args(Ranking))
def test_instances_come_best_first_in_every_ranking(
    network: MultiTaskMaskFormer, images: list[Tensor], ranking: Ranking
) -> None:
    (instances, _) = network.predict(images, [(64, 64)] * 2, Choice(ranking), max_instances=12)
    assert (instances.scores.diff() <= 0).all()
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()


def test_more_detections_than_queries_times_classes_keeps_all(
    network: MultiTaskMaskFormer, images: list[Tensor]
) -> None:
    (instances, _) = network.predict(images, [(64, 64)] * 2, max_instances=100)
    assert len(instances) == counting(network, images[0]) * 3


def counting(network: MultiTaskMaskFormer, image: Tensor) -> int:
    """How many queries of an image do not only repeat another."""
    distinct = network([image]).distinct
    return 6 if distinct is None else int(distinct.sum())


def test_images_of_any_size_are_padded_to_a_multiple_of_32(network: MultiTaskMaskFormer) -> None:
    batch = network.preprocess([torch.zeros(3, 40, 70), torch.zeros(3, 64, 33)])
    assert batch.shape == (2, 3, 64, 96)
    assert (batch[0, :, 40:] == 0).all()
    assert padded_size([torch.zeros(3, 40, 70)], 32) == (64, 96)
    assert pad_masks(torch.ones(2, 40, 70, dtype=torch.bool), (64, 96)).sum() == 2 * 40 * 70


def test_a_network_without_heads_is_mask2former() -> None:
    names = build_model(backbone=ResNet(50, "FrozenBN"), num_classes=80, subcategories={}).state_dict()
    head = "sem_seg_head.predictor"
    for name in (
        f"{head}.transformer_cross_attention_layers.8.multihead_attn.in_proj_weight",
        f"{head}.transformer_self_attention_layers.0.self_attn.out_proj.bias",
        f"{head}.class_embed.weight",
        f"{head}.mask_embed.layers.2.weight",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.self_attn.sampling_offsets.weight",
        "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
        "sem_seg_head.pixel_decoder.input_proj.2.1.weight",
        "backbone.res2.0.shortcut.norm.running_mean",
    ):
        assert name in names
    assert f"{head}.input_proj.0.weight" not in names


def test_a_query_whose_mask_is_empty_attends_everywhere() -> None:
    features = torch.ones(1, 2, 5)
    features[0, :, 3:] = -1
    allowed = attention_mask(torch.tensor([[[1.0, 1.0], [0.0, 0.0], [-3.0, 1.0]]]), features)
    assert allowed[0, 0].tolist() == [True, True, True, False, False]
    assert allowed[0, 1].all()
    assert allowed[0, 2].tolist() == [False, False, False, True, True]
    assert attention_mask(torch.full((1, 1, 2), -1.0), torch.ones(1, 2, 5)).all()


def test_position_encoding_is_y_then_x() -> None:
    encoding = sine_position_encoding(4, 6, 8, torch.device("cpu"))
    assert encoding.shape == (8, 4, 6)
    assert (encoding[:4] == encoding[:4, :, :1]).all()
    assert (encoding[4:] == encoding[4:, :1, :]).all()


def test_the_compiler_sees_one_graph(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    """Without a break, so that MODEL.COMPILE pays; the "eager" backend runs what was seen, uncompiled."""
    seen = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)(images)
    plain = network(images)
    torch.testing.assert_close(seen.pred_logits, plain.pred_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.pred_masks, plain.pred_masks, atol=1e-4, rtol=1e-4)


def test_the_encoders_feed_forward_width_is_an_option() -> None:
    settings: dict[str, Any] = {"num_classes": 2, "subcategories": {}, "conv_dim": 32, "mask_dim": 32}
    settings |= {"encoder_layers": 1, "hidden_dim": 32, "decoder_layers": 1}
    shapes = []
    widths: tuple[dict[str, Any], ...] = ({}, {"encoder_feedforward": 48})
    for width in widths:
        state = build_model(backbone=ResNet(18, "GN"), **settings, **width).state_dict()
        shapes.append({name: tuple(value.shape) for name, value in state.items()})
    layer = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0."
    assert {name: shape for name, shape in shapes[1].items() if shapes[0][name] != shape} == {
        f"{layer}linear1.weight": (48, 32),
        f"{layer}linear1.bias": (48,),
        f"{layer}linear2.weight": (32, 48),
    }
    assert shapes[0][f"{layer}linear1.bias"] == (1024,)  # the reference's
