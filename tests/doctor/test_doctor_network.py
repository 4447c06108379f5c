"""Faults of the network, each put into a copy, and the check that names it; a sound network has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from faulty import Fault, FaultySubject, findings, grave
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes
from raytune_m2f.data.masks import decode
from raytune_m2f.doctor import settings as settings_of
from raytune_m2f.doctor.finding import Check
from raytune_m2f.doctor.network import CHECKS
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import InputError
from raytune_m2f.model import SetCriterion
from raytune_m2f.model.matcher import HungarianMatcher
from raytune_m2f.model.transformer_decoder import Outputs

LOCATED = {"MODEL.MASK_FORMER.QUERY_SELECTION": "heatmap", "MODEL.MASK_FORMER.MASK_PRIOR": True}
BY_NAME = {check.name: check for check in CHECKS}


def said(config: Config, fault: Fault, *names: str) -> dict[str, str]:
    """What the checks of these names, or all, say of a network with a fault."""
    checks: Sequence[Check] = [BY_NAME[f"model/{name}"] for name in names] if names else CHECKS
    return grave(findings(FaultySubject(config, fault=fault), checks))


# Sound


def test_a_sound_network_has_no_warning(any_config: Config) -> None:
    found = findings(Subject(any_config), CHECKS)
    assert [f.level for name in BY_NAME for f in found[name]] == ["ok"] * len(CHECKS)


def test_nothing_of_the_subject_is_changed(tiny_config: Config) -> None:
    subject = Subject(tiny_config.with_values({"MODEL.RESNETS.NORM": "BN"}))
    before = {name: value.clone() for name, value in subject.learner.model.state_dict().items()}
    mode = subject.learner.model.training
    findings(subject, CHECKS)
    after = subject.learner.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert subject.learner.model.training == mode
    assert all(p.grad is None for p in subject.learner.model.parameters())


@pytest.mark.parametrize(
    "values",
    [
        {"DATASETS.SUBCATEGORIES": []},
        {"MODEL.RESNETS.NORM": "BN", "SEED": 3},
        {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 1},
        {**LOCATED, "MODEL.MASK_FORMER.DEEP_SUPERVISION": False, "INPUT.COPY_PASTE.ENABLED": True},
        {
            "TEST.TILES.ENABLED": True,
            "TEST.TILES.SIZE": 32,
            "MODEL.MASK_FORMER.TEST.RANKING": "product",
            "MODEL.MASK_FORMER.TEST.CLASS_THRESHOLD": 0.9,
            "MODEL.MASK_FORMER.TEST.NMS_THRESHOLD": 0.5,
        },
        {
            "MODEL.BACKBONE.NAME": "D2SwinTransformer",
            "MODEL.SWIN.EMBED_DIM": 12,
            "MODEL.SWIN.NUM_HEADS": [1, 2, 3, 4],
            "MODEL.SWIN.DROP_PATH_RATE": 0.8,
        },
        {"MODEL.BACKBONE.NAME": "build_mobilenet_v3_backbone", "MODEL.MOBILENETV3.NORM": "BN", **LOCATED},
    ],
    ids=["no heads", "batch norm", "one query", "last output alone", "tiles and sieves", "swin", "mobilenet"],
)
def test_other_sound_networks_have_none_either(tiny_config: Config, values: dict[str, Any]) -> None:
    assert grave(findings(Subject(tiny_config.with_values(values)), CHECKS)) == {}


@settings(
    max_examples=4,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_the_configuration_findings_or_our_error(tiny_config: Config, data: st.DataObject) -> None:
    former, draw = "MODEL.MASK_FORMER", data.draw
    values: dict[str, Any] = {
        "SEED": draw(st.integers(0, 2**31 - 1)),
        f"{former}.NUM_OBJECT_QUERIES": draw(st.integers(1, 30)),
        f"{former}.DEC_LAYERS": draw(st.integers(2, 5)),
        f"{former}.NO_OBJECT_WEIGHT": draw(st.floats(0.01, 2)),
        f"{former}.CLASS_WEIGHT": draw(st.floats(0.1, 10)),
        f"{former}.SUBCATEGORY_WEIGHT": draw(st.floats(0.1, 10)),
        f"{former}.DEEP_SUPERVISION": draw(st.booleans()),
        f"{former}.SUBCATEGORY_BALANCE": draw(st.sampled_from(["none", "inverse_sqrt", "effective_number"])),
        f"{former}.TEST.RANKING": draw(st.sampled_from(["main", "sum", "logits", "product"])),
        "DATASETS.SUBCATEGORIES": draw(st.sampled_from([[], ["color"], ["texture", "color"]])),
        "INPUT.IMAGE_SIZE": draw(st.sampled_from([40, 64, 200])),
        "SOLVER.IMS_PER_BATCH": draw(st.integers(2, 12)),
        "MODEL.RESNETS.NORM": draw(st.sampled_from(["GN", "BN"])),
        **(LOCATED if draw(st.booleans()) else {}),
    }
    try:
        subject = Subject(tiny_config.with_values(values))
        found = findings(subject, CHECKS)
    except InputError:
        return
    assert grave(found) == {}


# No background class, and other numbers of outputs


def without_background(head: str) -> Fault:
    def fault(learner: Any) -> None:
        predictor = learner.model.sem_seg_head.predictor
        old = predictor.get_submodule(f"{head}_embed")
        setattr(predictor, f"{head}_embed", nn.Linear(old.in_features, old.out_features - 1))

    return fault


@pytest.mark.parametrize(("head", "name"), [("class", "the main head"), ("color", "head 'color'")])
def test_a_head_without_background_is_named(any_config: Config, head: str, name: str) -> None:
    told = said(any_config, without_background(head), "classes")["model/classes"]
    assert name in told
    assert "none for 'no object'" in told
    assert "texture" not in told


# Matching


class OfMainAlone(HungarianMatcher):
    """The story's first: the matcher knew only the main category."""

    def cost(self, outputs: Outputs, targets: Any, points: Any) -> Tensor:
        return super().cost(replace(outputs, pred_sublogits={}), replace(targets, sublabels={}), points)


def of_main_alone(learner: Any) -> None:
    old = learner.criterion.matcher
    learner.criterion.matcher = OfMainAlone(old.weights, old.num_points)


def test_heads_left_out_of_the_matcher_are_named(any_config: Config) -> None:
    told = said(any_config, of_main_alone)
    assert told.keys() == {"model/matcher"}
    assert "'color'" in told["model/matcher"]
    assert "'texture'" in told["model/matcher"]
    assert "main" not in told["model/matcher"]


@pytest.mark.parametrize("key", ["CLASS_WEIGHT", "SUBCATEGORY_WEIGHT"])
def test_a_weight_of_zero_is_left_to_the_check_of_the_configuration(any_config: Config, key: str) -> None:
    assert said(any_config.with_values({f"MODEL.MASK_FORMER.{key}": 0}), lambda _: None) == {}
    told = said(any_config.with_values({f"MODEL.MASK_FORMER.{key}": 0}), of_main_alone, "matcher", "loss")
    assert told.keys() == {"model/matcher"}


# Losses


def with_cross_entropy(change: Callable[..., Tensor]) -> Fault:
    """A loss whose cross-entropy is changed."""

    def fault(learner: Any) -> None:
        plain = SetCriterion.cross_entropy
        learner.criterion.cross_entropy = lambda *args: change(partial_of(plain, learner.criterion), *args)

    return fault


def partial_of(function: Callable[..., Tensor], owner: object) -> Callable[..., Tensor]:
    return MethodType(function, owner)


def of_color(logits: Tensor) -> bool:
    return logits.shape[-1] == 5  # four colours


def without_color(plain: Callable[..., Tensor], logits: Tensor, *args: Any) -> Tensor:
    return 0 * plain(logits, *args) if of_color(logits) else plain(logits, *args)


def shifted_color(plain: Callable[..., Tensor], logits: Tensor, labels: Tensor, *args: Any) -> Tensor:
    return plain(logits, (labels + 1) % 4 if of_color(logits) else labels, *args)


def without_unmatched(plain: Callable[..., Tensor], logits: Tensor, labels: Tensor, matches: Any, *args: Any) -> Tensor:
    matched = torch.zeros(logits.shape[:3], dtype=torch.bool)
    matched[matches.layers, matches.images, matches.queries] = True
    layers = [replace(matches, distinct=matched)]
    return plain(logits, labels, layers[0], *args)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_color, "the loss of head 'color' does not change with what it predicts"),
        (shifted_color, "learn another class in head 'color'"),
        (without_unmatched, "do not learn 'no object'"),
    ],
)
def test_a_wrong_loss_is_named(tiny_config: Config, change: Callable[..., Tensor], told: str) -> None:
    assert told in said(tiny_config, with_cross_entropy(change), "loss")["model/loss"]


def drop_color(learner: Any) -> None:
    class Dropped(SetCriterion):
        def __call__(self, *args: Any) -> dict[str, Tensor]:
            return {name: term for name, term in super().__call__(*args).items() if name != "loss_color"}

    learner.criterion.__class__ = Dropped


def test_a_head_left_out_of_the_loss_is_named(any_config: Config) -> None:
    told = said(any_config, drop_color, "loss", "gradients")
    assert "the loss of head 'color' is not there" in told["model/loss"]
    assert "head 'color'" in told["model/gradients"]
    assert "texture" not in " ".join(told.values())


def test_a_head_that_starts_sure_is_named(any_config: Config) -> None:
    def fault(learner: Any) -> None:
        with torch.no_grad():
            learner.model.sem_seg_head.predictor.texture_embed.weight *= 30

    told = said(any_config, fault, "initial_loss")["model/initial_loss"]
    assert "head 'texture'" in told
    assert "color" not in told


# Gradients


def fed(make: Callable[[Any, Tensor], Tensor], head: str = "color", *, training: bool = True) -> Fault:
    """A head that reads something else than the decoder's output; with `training` false in evaluation only."""

    def fault(learner: Any) -> None:
        predictor = learner.model.sem_seg_head.predictor
        plain = type(predictor)._predict

        def predict(self: Any, decoded: Tensor, *args: Any) -> Outputs:
            outputs: Outputs = plain(self, decoded, *args)
            if self.training and not training:
                return outputs
            logits = self.get_submodule(f"{head}_embed")(make(self, decoded))
            return replace(outputs, pred_sublogits={**outputs.pred_sublogits, head: logits})

        predictor._predict = MethodType(predict, predictor)

    return fault


def detached(predictor: Any, decoded: Tensor) -> Tensor:
    return decoded.detach()


def query_weights(predictor: Any, decoded: Tensor) -> Tensor:
    """The story's second: the normalised query weights, the same for every image."""
    queries: Tensor = predictor.decoder_norm(predictor.query_feat.weight)
    return queries.expand_as(decoded)


def first_output(predictor: Any, decoded: Tensor) -> Tensor:
    """What queries are before the decoder; with located queries it does depend on the image."""
    return decoded[:1].expand_as(decoded)


def last_image(predictor: Any, decoded: Tensor) -> Tensor:
    return decoded[:, -1:].expand_as(decoded)


def test_a_detached_head_is_named(any_config: Config) -> None:
    told = said(any_config, fed(detached), "gradients")["model/gradients"]
    assert "the loss of head 'color' (loss_color) does not reach decoder layer 2, pixel decoder, backbone" in told
    assert "texture" not in told


def test_a_frozen_head_is_named_and_frozen_stages_are_not(tiny_config: Config, tmp_path: Path) -> None:
    def fault(learner: Any) -> None:
        learner.model.sem_seg_head.predictor.color_embed.requires_grad_(False)

    told = said(tiny_config, fault, "gradients")["model/gradients"]
    assert "frozen" in told
    assert "head 'color'" in told
    weights = tmp_path / "weights.pth"
    torch.save(Subject(tiny_config).learner.model.state_dict(), weights)
    frozen = tiny_config.with_values({"MODEL.WEIGHTS": str(weights), "MODEL.BACKBONE.FREEZE_AT": 2})
    assert said(frozen, lambda _: None) == {}


def test_what_is_not_given_to_the_optimizer_is_named(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.optimizer

        def optimizer(config: Config) -> torch.optim.Optimizer:
            made = plain(config)
            left_out = {id(p) for p in learner.model.sem_seg_head.predictor.texture_embed.parameters()}
            for group in made.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in left_out]
            return made  # type: ignore[no-any-return]

        learner.optimizer = optimizer

    assert "is not given to the optimizer: head 'texture'" in said(tiny_config, fault, "gradients")["model/gradients"]


def test_a_rate_of_zero_is_named(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.optimizer

        def optimizer(config: Config) -> torch.optim.Optimizer:
            made = plain(config)
            for group in made.param_groups:
                group["lr"] = 0.0
            return made  # type: ignore[no-any-return]

        learner.optimizer = optimizer

    assert "has a learning rate of 0" in said(tiny_config, fault, "gradients")["model/gradients"]


# Outputs


def test_query_weights_fed_to_a_head_are_named(tiny_config: Config) -> None:
    told = said(tiny_config, fed(query_weights))
    assert "head 'color' predicts does not change from image to image" in told["model/images"]
    assert "the loss of head 'color' (loss_color) does not reach" in told["model/gradients"]
    assert "texture" not in told["model/images"] + told["model/gradients"]


def test_at_inference_alone_they_are_named_too(tiny_config: Config) -> None:
    told = said(tiny_config, fed(query_weights, training=False))
    assert "head 'color'" in told["model/images"]
    assert "head 'color'" in told["model/modes"]
    assert "model/gradients" not in told


def test_located_queries_that_skip_the_decoder_are_named(tiny_config: Config) -> None:
    located = tiny_config.with_values(LOCATED)
    assert "head 'color'" in said(located, fed(first_output), "gradients")["model/gradients"]
    assert "head 'color'" in said(located, fed(first_output, training=False), "modes")["model/modes"]


def test_the_last_image_for_all_is_named(any_config: Config) -> None:
    told = said(any_config, fed(last_image, training=False), "batch", "images")
    assert "head 'color' for image 1" in told["model/batch"]
    assert "texture" not in told["model/batch"]


def test_a_network_that_does_not_see_the_image_is_named(any_config: Config) -> None:
    def fault(learner: Any) -> None:
        plain = learner.model.preprocess
        learner.model.preprocess = lambda images: 0 * plain(images)

    assert "does not change from image to image" in said(any_config, fault, "images")["model/images"]


def test_one_answer_for_all_queries_is_named(tiny_config: Config) -> None:
    told = said(tiny_config, fed(lambda _, decoded: decoded.mean(2, keepdim=True).expand_as(decoded)), "images")
    assert "head 'color' predicts does not change from query to query" in told["model/images"]


def test_batch_norm_that_stays_in_training_mode_is_named(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        for module in learner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(True)
                setattr(module, "eval", lambda *_, module=module: module)  # noqa: B010
                setattr(module, "train", module.eval)  # noqa: B010

    told = said(tiny_config.with_values({"MODEL.RESNETS.NORM": "BN"}), fault, "batch")
    assert "are not those for it alone" in told["model/batch"]


def test_batch_norm_of_one_image_is_named_before_the_network_is_built(tiny_config: Config) -> None:
    config = tiny_config.with_values({"MODEL.RESNETS.NORM": "BN", "SOLVER.MICRO_BATCH": 1})
    told = grave(findings(Subject(config), [settings_of.BATCHES]))
    assert "with 1 image at once" in told["configuration/batch"]
    (found,) = findings(Subject(config), [BY_NAME["model/modes"]])["model/modes"]
    assert "BatchNorm2d act otherwise in training" in found.figure


# Inference


def predicted(change: Callable[[list[Any]], list[Any]]) -> Fault:
    """What `predict` gives is changed."""

    def fault(learner: Any) -> None:
        class Changed(type(learner)):  # type: ignore[misc]
            def predict(self, samples: Any) -> list[Any]:
                return change(super().predict(samples))

        learner.__class__ = Changed

    return fault


def last_probabilities(found: list[Any]) -> list[Any]:
    """The story's second, mended once: the last image's logits given to every image."""
    last = found[-1]
    index = [torch.arange(len(one)) % len(last) for one in found]
    return [
        replace(one, subprobs={h: p[i] for h, p in last.subprobs.items()}) for one, i in zip(found, index, strict=True)
    ]


def permuted_heads(found: list[Any]) -> list[Any]:
    return [replace(one, subprobs={**one.subprobs, "color": one.subprobs["color"].flip(0)}) for one in found]


def permuted_labels(found: list[Any]) -> list[Any]:
    return [replace(one, labels=(one.labels + 1) % 3) for one in found]


def transposed_masks(found: list[Any]) -> list[Any]:
    def transposed(rle: Any) -> Any:
        other = mask_utils.encode(np.asfortranarray(decode([rle], *rle["size"])[0].T))
        return {**other, "counts": other["counts"].decode("ascii")}

    return [replace(one, masks=[transposed(rle) for rle in one.masks]) for one in found]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (last_probabilities, "head 'texture'"),
        (permuted_heads, "head 'color'"),
        (permuted_labels, "labels of the main head"),
        (transposed_masks, "the masks"),
    ],
)
def test_what_inference_mixes_up_is_named(any_config: Config, change: Any, told: str) -> None:
    assert told in said(any_config, predicted(change), "inference")["model/inference"]


def test_the_last_image_for_all_is_named_in_predict(any_config: Config) -> None:
    assert "in `predict`" in said(any_config, predicted(last_probabilities), "batch")["model/batch"]


# Weights


def test_nan_weights_are_named_and_the_rest_is_not_looked_at(any_config: Config) -> None:
    def fault(learner: Any) -> None:
        with torch.no_grad():
            learner.model.sem_seg_head.predictor.color_embed.bias[0] = float("nan")

    found = findings(FaultySubject(any_config, fault=fault), CHECKS)
    assert "color_embed.bias" in grave(found)["model/finite"]
    assert found["model/images"][0].level == "skipped"


def test_where_predictions_become_infinite_is_named(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        with torch.no_grad():
            learner.model.sem_seg_head.pixel_decoder.mask_features.weight *= 1e38
            learner.model.sem_seg_head.pixel_decoder.mask_features.weight *= 1e38

    assert "mask_features" in said(tiny_config, fault, "finite")["model/finite"]


@pytest.fixture
def trained(tiny_config: Config, tmp_path: Path) -> Config:
    """A configuration that starts from the weights of another training."""
    torch.manual_seed(5)
    weights = tmp_path / "weights.pth"
    torch.save(Subject(tiny_config).engine.learner().model.state_dict(), weights)
    return tiny_config.with_values({"MODEL.WEIGHTS": str(weights)})


def test_weights_that_were_not_loaded_are_named(trained: Config) -> None:
    def fault(learner: Any) -> None:
        for parameter in learner.model.backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.01)

    assert said(trained, lambda _: None, "weights") == {}
    assert "tensors of the backbone have not the values of" in said(trained, fault, "weights")["model/weights"]


def test_what_was_loaded_is_told_part_by_part(trained: Config) -> None:
    (found,) = findings(
        Subject(trained.with_values({"DATASETS.SUBCATEGORIES": ["color"]})), [BY_NAME["model/weights"]]
    )["model/weights"]
    assert found.level == "ok"
    assert "head 'color' 2 of 2" in found.figure


def test_a_trained_head_of_other_classes_is_named(trained: Config) -> None:
    """A head that is sure, and wrong, because its file was trained for another order of classes."""

    def fault(learner: Any) -> None:
        state = torch.load(trained.MODEL.WEIGHTS)
        bias = "sem_seg_head.predictor.color_embed.bias"
        state[bias] = torch.tensor([6.0, -6, -6, -6, -6])
        torch.save(state, trained.MODEL.WEIGHTS)
        learner.model.load_state_dict(state)

    found = findings(FaultySubject(trained, fault=fault), [BY_NAME["model/initial_loss"]])["model/initial_loss"]
    assert [(f.level, f.values["head"]) for f in found] == [("warning", "color")]


# What cannot be looked at


def test_an_image_that_cannot_be_read_is_left_to_the_checks_of_the_data(tmp_path: Path, tiny_config: Config) -> None:
    paths = generate_shapes(tmp_path, train_images=4, val_images=2)
    for image in paths["train_images"].iterdir():
        image.write_bytes(image.read_bytes()[:200])
    register = {
        name: {"annotations": str(paths[f"{name}_annotations"]), "images": str(paths[f"{name}_images"])}
        for name in ("train", "val")
    }
    found = findings(Subject(tiny_config.with_values({"DATASETS.REGISTER": register})), CHECKS)
    assert {f.level for name in BY_NAME for f in found[name]} == {"skipped"}


def test_another_network_is_skipped_with_the_reason(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        learner.model = nn.Linear(2, 2)

    found = findings(FaultySubject(tiny_config, fault=fault), CHECKS)
    assert {f.level for name in BY_NAME for f in found[name]} == {"skipped"}
    assert "not our network" in found["model/images"][0].figure


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_our_network_with_the_engine_of_detectron2_has_no_warning(any_config: Config) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    found = findings(Subject(any_config.with_values({"ENGINE": "detectron2"})), CHECKS)
    assert [f.level for name in BY_NAME for f in found[name]] == ["ok"] * len(CHECKS)


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_detectron2_is_skipped(tiny_config: Config) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    values = tiny_config.to_dict()["DATASETS"]
    kept = {key: values[key] for key in ("REGISTER", "TRAIN", "TEST")}
    model = {"META_ARCHITECTURE": "RetinaNet", "MASK_ON": False, "WEIGHTS": "", "RETINANET": {"NUM_CLASSES": 3},
             "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
             "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
             "FPN": {"IN_FEATURES": ["res3", "res4", "res5"]}}  # fmt: skip
    config = Config.from_dict({"ENGINE": "detectron2", "MODEL": model, "DATASETS": kept}, source="any")
    found = findings(Subject(config), CHECKS)
    assert {f.level for name in BY_NAME for f in found[name]} == {"skipped"}


# The schedule


@pytest.mark.parametrize("factor", [0.0, -1.0, 30.0, float("nan")])
def test_a_schedule_that_gives_no_learning_rate_is_named(tiny_config: Config, factor: float) -> None:
    def fault(learner: Any) -> None:
        learner.schedule = lambda config: lambda iteration: factor

    assert "the schedule multiplies the learning rate by" in said(tiny_config, fault, "schedule")["model/schedule"]


def test_a_schedule_that_ends_early_is_named(tiny_config: Config) -> None:
    def fault(learner: Any) -> None:
        learner.schedule = lambda config: lambda iteration: 1.0 if iteration == 0 else 0.0

    assert "next to no learning rate" in said(tiny_config, fault, "schedule")["model/schedule"]
