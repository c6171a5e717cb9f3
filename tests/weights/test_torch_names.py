"""Every layout covers every array once and comes back bit for bit; the released models have the keys they have."""

import dataclasses

import numpy as np
import pytest

from configs import detr as configs
from detr_jax.config_forms import from_config_dict
from detr_jax.weights import torch_names
from tests.weights.small_models import LAYOUTS, PANOPTIC, assert_equal, random_arrays, shapes_of, small_model


@pytest.mark.parametrize(
    "variant", [{}, {"position_embedding": "learned"}, {"pre_norm": True}, {"backbone": "resnet18"},
                {"masks": True, "heads": 8}]
)  # fmt: skip
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_and_key_has_exactly_one_row_and_comes_back(layout, variant):
    table = (PANOPTIC if "masks" in variant else LAYOUTS)[layout]
    arrays = random_arrays(small_model(**variant), 5)
    for name in arrays:
        rows = [row for row in table for one in row.names if torch_names.translate(name, one, "") is not None]
        assert len(rows) == 1, name
    there = torch_names.to_there(arrays, table)
    for key in there:
        assert sum(torch_names.translate(key, row.key, "") is not None for row in table) == 1, key
    back, unknown = torch_names.to_here(there, table)
    assert not unknown
    assert_equal(back, arrays)
    packed = sum("in_proj" in key for key in there)
    assert len(there) == len(arrays) - 2 * packed


def test_packed_attention_is_query_key_value():
    arrays = random_arrays(small_model(), 91)
    packed = torch_names.to_there(arrays, torch_names.ORIGINAL)[
        "transformer.decoder.layers.1.multihead_attn.in_proj_weight"
    ]
    name = "transformer/decoder/1/cross_attention"
    parts = [arrays[f"{name}/{part}/kernel"].T for part in ("query", "key", "value")]
    np.testing.assert_array_equal(packed, np.concatenate(parts))


def released(blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the original's released box models, as its model classes give them; 91 classes."""
    norm = ("weight", "bias", "running_mean", "running_var")
    body, shapes = "backbone.0.body", {}

    def conv_and_norm(conv, batch_norm, *shape):
        shapes[f"{body}.{conv}.weight"] = shape
        shapes.update({f"{body}.{batch_norm}.{value}": shape[:1] for value in norm})

    def layer(key, *shape, bias="bias", weight="weight"):
        shapes.update({f"{key}.{weight}": shape, f"{key}.{bias}": shape[:1]})

    conv_and_norm("conv1", "bn1", 64, 3, 7, 7)
    channels = 64
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        for block in range(count):
            at = f"layer{stage}.{block}"
            conv_and_norm(f"{at}.conv1", f"{at}.bn1", width, channels, 1, 1)
            conv_and_norm(f"{at}.conv2", f"{at}.bn2", width, width, 3, 3)
            conv_and_norm(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                conv_and_norm(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    layer("input_proj", 256, 2048, 1, 1)
    shapes["query_embed.weight"] = (100, 256)
    for part, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        for at in (f"transformer.{part}.layers.{number}" for number in range(6)):
            for attention in attentions:
                layer(f"{at}.{attention}", 768, 256, weight="in_proj_weight", bias="in_proj_bias")
                layer(f"{at}.{attention}.out_proj", 256, 256)
            layer(f"{at}.linear1", 2048, 256)
            layer(f"{at}.linear2", 256, 2048)
            for number in range(len(attentions) + 1):
                layer(f"{at}.norm{number + 1}", 256)
    layer("transformer.decoder.norm", 256)
    layer("class_embed", 92, 256)
    for number, outputs in enumerate((256, 256, 4)):
        layer(f"bbox_embed.layers.{number}", outputs, 256)
    return shapes


def released_panoptic() -> dict[str, tuple[int, ...]]:
    """The same of its panoptic R50."""
    shapes = {f"detr.{key}": shape for key, shape in released((3, 4, 6, 3)).items()}
    shapes |= {"detr.class_embed.weight": (251, 256), "detr.class_embed.bias": (251,)}
    layers = {
        "lay1": (264, 264, 3, 3), "lay2": (128, 264, 3, 3), "lay3": (64, 128, 3, 3), "lay4": (32, 64, 3, 3),
        "lay5": (16, 32, 3, 3), "out_lay": (1, 16, 3, 3), "gn1": (264,), "gn2": (128,), "gn3": (64,), "gn4": (32,),
        "gn5": (16,), "adapter1": (128, 1024, 1, 1), "adapter2": (64, 512, 1, 1), "adapter3": (32, 256, 1, 1),
    }  # fmt: skip
    layers = {f"mask_head.{key}": shape for key, shape in layers.items()}
    for key, shape in (
        layers | dict.fromkeys(["bbox_attention.q_linear", "bbox_attention.k_linear"], (256,) * 2)
    ).items():
        shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    return shapes


@pytest.mark.parametrize("word, changes, count, wanted", [
    ("r50", {}, 458, released((3, 4, 6, 3))), ("r50_dc5", {}, 458, released((3, 4, 6, 3))),
    ("r101", {}, 713, released((3, 4, 23, 3))), ("r50", {"masks": True}, 490, released_panoptic()),
])  # fmt: skip
def test_tensors_of_the_released_models(word, changes, count, wanted):
    model = dataclasses.replace(from_config_dict(configs.get_config(word)).model, **changes)
    shapes = shapes_of(model, 250 if changes else 91)
    arrays = {name: np.zeros(shape.shape, np.int8) for name, shape in shapes.items()}
    there = torch_names.to_there(arrays, (PANOPTIC if changes else LAYOUTS)["ORIGINAL"])
    assert len(there) == len(wanted) == count
    assert {key: tensor.shape for key, tensor in there.items()} == wanted
