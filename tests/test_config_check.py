"""What cannot be is refused by one sentence, before anything is read; what can be is not."""

import dataclasses

import pytest

from detr_jax.config import ARCHITECTURES, STAGES, Config, ModelConfig
from detr_jax.config_check import check, check_model, finer_stage, parts, stride
from detr_jax.config_forms import from_dict
from detr_jax.errors import UserError
from detr_jax.models import detr

LAYER4_MASKS = {"masks": True, "hidden_dim": 32, "heads": 8}
ONE_CANVAS = {"scales": [64], "max_size": 64, "crop": 0.0}
REFUSED = {  # settings -> words of the sentence
    "a part that does not exist": ({"freeze": ["backbne"]}, ["'backbne'", "backbone/layer1", "class_head"]),
    "one of several parts": ({"freeze": ["backbone", "decoder"]}, ["'decoder'"]),
    "an empty part": ({"freeze": [""]}, ["''"]),
    "a stage that is not there": (
        {"freeze": ["backbone/layer4"], "model": {"last_stage": "layer3"}}, ["backbone/layer4"]
    ),
    "nothing to train": (
        {"freeze": ["backbone", "transformer", "input", "query", "class", "box"]}, ["leaves nothing to train"]
    ),
    "a small canvas": ({"data": {"max_size": 1400}}, ["data.buckets", "800x1400", "1344"]),
    "a small canvas for the scale": ({"data": ONE_CANVAS | {"buckets": [[60, 64, 8]]}}, ["64x64", "60x64"]),
    "denoising without anchors": ({"model": {"denoising": 2}}, ["model.denoising=2", "model.anchors=True"]),
    "selection without anchors": ({"model": {"queries": "selected"}}, ["model.queries=selected", "model.anchors"]),
    "focus without anchors": ({"model": {"focus": True}}, ["model.focus=True", "model.anchors=True"]),
    "heads": ({"model": {"heads": 5}}, ["model.hidden_dim=256", "model.heads=5"]),
    "width": ({"model": {"hidden_dim": 6, "heads": 2}}, ["model.hidden_dim=6", "4"]),
    "group norm": ({"model": {"norm": "group", "backbone_width": 12}}, ["backbone_width=12", "multiple of 8"]),
    "weights for a group norm": (
        {"model": {"norm": "group", "backbone_weights": "a.npz"}}, ["a.npz", "model.norm=frozen_batch"]
    ),
    "finer than the finest": (
        {"model": {"finer_memory": True, "last_stage": "layer1"}}, ["model.finer_memory=True", "last_stage"]
    ),
    "masks of a C4": ({"model": LAYER4_MASKS | {"last_stage": "layer3"}}, ["last_stage=layer4", "layer3"]),
    "heads of masks": ({"model": LAYER4_MASKS | {"heads": 4}, "freeze": ["mask_head"]}, ["heads in eights"]),
    "masks that would be trained": ({"model": LAYER4_MASKS}, ["masks cannot be trained", "freeze=\"('mask_head',)\""]),
    "an unknown choice": ({"optim": {"schedule": "linear"}}, ["optim.schedule=linear", "step, cosine, constant"]),
    "dtype": ({"dtype": "float17"}, ["dtype=float17", "bfloat16"]),
    "a negative number": ({"optim": {"lr": -1e-3}}, ["optim.lr=-0.001", "from 0 to 1"]),
    "not a number": ({"optim": {"lr": float("nan")}}, ["optim.lr=nan"]),
    "infinity": ({"optim": {"clip_norm": float("inf")}}, ["optim.clip_norm=inf"]),
    "no queries": ({"model": {"num_queries": 0}}, ["model.num_queries=0", "1 or more"]),
    "no batch": ({"train": {"batch_size": 0}}, ["train.batch_size=0"]),
    "a batch that cannot be cut": ({"train": {"accum_steps": 3}}, ["batch_size=16", "accum_steps=3", "multiple of 3"]),
    "a rate that drops at once": ({"optim": {"drop_epoch": 0}}, ["optim.drop_epoch=0", "constant"]),
    "no scales": ({"data": {"scales": []}}, ["data.scales=()"]),
    "a scale of nothing": ({"data": {"crop_scales": [0]}}, ["data.crop_scales=(0,)"]),
    "crops": ({"data": {"crop_min": 700}}, ["data.crop_max=600 is below data.crop_min=700"]),
    "a probability": ({"data": {"flip": 1.5}}, ["data.flip=1.5", "from 0 to 1"]),
    "a split": ({"data": {"train_split": "train["}}, ["data.train_split=train[", "train[:100]"]),
    "learned positions": ({"model": {"position_embedding": "learned", "dilation": True}}, ["50 cells", "84"]),
    "features that are trained": (
        {"train": {"cache_features": "layer2"}}, ["layer2", "freeze=\"('backbone/layer2',)\""]
    ),
    "features of moving views": (
        {"train": {"cache_features": "layer2"}, "freeze": ["backbone/layer2"]}, ["data.crop=0", "data.scales"]
    ),
    "features beyond the last stage": (
        {"train": {"cache_features": "layer4"}, "model": {"last_stage": "layer3"}}, ["model.last_stage=layer3"]
    ),
    "features beyond what the decoder reads": (
        {"train": {"cache_features": "layer4"}, "model": {"finer_memory": True}}, ["layer3", "model.finer_memory=True"]
    ),
    "features on the device": (
        {"train": {"cache_features": "layer1"}, "data": {"crop": 0.0, "scales": [800], "resize": "device"}},
        ["data.resize=device"],
    ),
    "a stage that does not exist": ({"train": {"cache_features": "layer7"}}, ["layer7", "layer1, layer2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence(name):
    values, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        check(from_dict(values))
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    for word in words:
        assert word in message, message


ALLOWED = {
    "defaults": {},
    "a landscape canvas alone": {"data": {"scales": [480], "max_size": 640, "buckets": [[480, 640, 64]]}},
    "a portrait canvas alone": {"data": {"scales": [480], "max_size": 640, "buckets": [[640, 480, 64]]}},
    "a short side that max_size limits": {"data": {"scales": [900], "max_size": 640, "buckets": [[640, 640, 64]]}},
    "parts by the start of their names": {"freeze": ["back", "transformer/encoder/0", "backbone/layer2/1/conv1"]},
    "features of what is always frozen": {
        "train": {"cache_features": "layer1"}, "data": {"crop": 0.0, "scales": [800]}
    },
    "masks that are frozen": {"model": {"masks": True}, "freeze": ["mask_head"]},
    "crops are not looked at without cropping": {"data": {"crop": 0.0, "crop_min": 900, "crop_scales": []}},
    "no warm-up, no clipping": {"optim": {"clip_norm": 0.0, "warmup_steps": 0}},
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name):
    check(from_dict(ALLOWED[name]))


VARIANTS = [
    ModelConfig(),
    ModelConfig(last_stage="layer3", pre_norm=True, position_embedding="learned"),
    ModelConfig(backbone="resnet10_small", anchors=True, queries="selected", finer_memory=True, focus=True),
    ModelConfig(masks=True, encoder_layers=0),
]


@pytest.mark.parametrize("model", VARIANTS)
def test_parts_are_those_of_the_network(model):
    shapes = detr.network(model, 3).shapes
    for part in parts(model):
        assert any(name.startswith(part) for name in shapes), part
    assert all(name.startswith(tuple(parts(model))) for name in shapes)


@pytest.mark.parametrize("last_stage", STAGES)
@pytest.mark.parametrize("dilation", [False, True])
def test_stride_is_that_of_the_backbone(last_stage, dilation):
    model = ModelConfig(last_stage=last_stage, dilation=dilation)
    assert stride(model) == {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}[last_stage] // (
        2 if dilation and last_stage != "layer1" else 1
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_finer_stage_is_that_of_the_network(name):
    for last_stage, dilation in (("layer4", False), ("layer4", True), ("layer3", False), ("layer3", True)):
        model = ModelConfig(backbone=name, backbone_width=8, last_stage=last_stage, dilation=dilation)
        shapes = detr.network(dataclasses.replace(model, finer_memory=True, hidden_dim=32, heads=4), 2).shapes
        width = {"layer1": 8, "layer2": 16, "layer3": 32}[finer_stage(model)]
        expansion = 4 if ARCHITECTURES[name].bottleneck else 1
        assert shapes["finer/lateral/kernel"].shape[0] == width * expansion, (last_stage, dilation)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_backbone_passes(name):
    check_model(ModelConfig(backbone=name))
    with pytest.raises(UserError, match="model.hidden_dim"):
        check_model(dataclasses.replace(ModelConfig(backbone=name), hidden_dim=6))


def test_the_config_as_a_whole_is_checked():
    check(Config())
