"""How arrays are called in PyTorch's world and here: one declarative table per layout, read in both directions.

A row pairs a key there with the name or names here; ``{}`` stands for a number and means the same on both sides. A key
with three names is a tensor that packs query, key and value along its first axis. The transform says how values are
stored.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Transforms: how a tensor there is stored here.
SAME = "same"
CONV = "conv"  # [out, in, h, w] -> [h, w, in, out]
LINEAR = "linear"  # [out, in] -> [in, out]
POINTWISE = "pointwise"  # a 1x1 convolution [out, in, 1, 1] -> [in, out]


class Row(NamedTuple):
    """One line of a layout's table."""

    key: str
    names: tuple[str, ...]
    transform: str = SAME


def _pair(key: str, name: str, transform: str = LINEAR) -> list[Row]:
    """A layer with a weight and a bias."""
    return [Row(f"{key}.weight", (f"{name}/kernel",), transform), Row(f"{key}.bias", (f"{name}/bias",))]


def _layer_norm(key: str, name: str) -> list[Row]:
    return [Row(f"{key}.weight", (f"{name}/scale",)), Row(f"{key}.bias", (f"{name}/bias",))]


def _batch_norm(key: str, name: str) -> list[Row]:
    values = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [Row(f"{key}.{there}", (f"{name}/{here}",)) for there, here in values.items()]


def _conv(key: str, name: str) -> list[Row]:
    return [Row(f"{key}.weight", (f"{name}/kernel",), CONV)]


def prefixed(prefix: str, rows: list[Row]) -> list[Row]:
    """The same table for a model that is part of another one."""
    return [row._replace(key=prefix + row.key) for row in rows]


# ---- backbones -----------------------------------------------------------------------------------------------------

RESNET = [  # torchvision and timm
    *_conv("conv1", "backbone/conv1"),
    *_batch_norm("bn1", "backbone/norm1"),
    *_conv("layer{}.{}.conv{}", "backbone/layer{}/{}/conv{}"),
    *_batch_norm("layer{}.{}.bn{}", "backbone/layer{}/{}/norm{}"),
    *_conv("layer{}.{}.downsample.0", "backbone/layer{}/{}/shortcut"),
    *_batch_norm("layer{}.{}.downsample.1", "backbone/layer{}/{}/shortcut_norm"),
]

RESNET_FOLDED = [  # batch norm folded into the convolution before it: only its bias is left
    Row("conv1.weight", ("backbone/conv1/kernel",), CONV),
    Row("conv1.bias", ("backbone/norm1/bias",)),
    Row("layer{}.{}.conv{}.weight", ("backbone/layer{}/{}/conv{}/kernel",), CONV),
    Row("layer{}.{}.conv{}.bias", ("backbone/layer{}/{}/norm{}/bias",)),
    Row("layer{}.{}.downsample.0.weight", ("backbone/layer{}/{}/shortcut/kernel",), CONV),
    Row("layer{}.{}.downsample.0.bias", ("backbone/layer{}/{}/shortcut_norm/bias",)),
]

_RESNET_NATIVE = [  # transformers' own ResNet, which counts from 0
    *_conv("embedder.embedder.convolution", "backbone/conv1"),
    *_batch_norm("embedder.embedder.normalization", "backbone/norm1"),
]
_RESNET_D2 = [  # Detectron2's, which calls layer1 res2
    *_conv("stem.conv1", "backbone/conv1"),
    *_batch_norm("stem.conv1.norm", "backbone/norm1"),
]
for _stage in range(4):
    _there, _here = f"encoder.stages.{_stage}.layers.{{}}", f"backbone/layer{_stage + 1}/{{}}"
    _RESNET_NATIVE += _conv(f"{_there}.shortcut.convolution", f"{_here}/shortcut")
    _RESNET_NATIVE += _batch_norm(f"{_there}.shortcut.normalization", f"{_here}/shortcut_norm")
    _d2 = f"res{_stage + 2}.{{}}"
    _RESNET_D2 += _conv(f"{_d2}.conv{{}}", f"{_here}/conv{{}}") + _batch_norm(
        f"{_d2}.conv{{}}.norm", f"{_here}/norm{{}}"
    )
    _RESNET_D2 += _conv(f"{_d2}.shortcut", f"{_here}/shortcut")
    _RESNET_D2 += _batch_norm(f"{_d2}.shortcut.norm", f"{_here}/shortcut_norm")
    for _index in range(3):
        _RESNET_NATIVE += _conv(f"{_there}.layer.{_index}.convolution", f"{_here}/conv{_index + 1}")
        _RESNET_NATIVE += _batch_norm(f"{_there}.layer.{_index}.normalization", f"{_here}/norm{_index + 1}")

# ---- the transformer and the heads ---------------------------------------------------------------------------------


def _packed_attention(key: str, name: str) -> list[Row]:
    parts = ("query", "key", "value")
    return [
        Row(f"{key}.in_proj_weight", tuple(f"{name}/{part}/kernel" for part in parts), LINEAR),
        Row(f"{key}.in_proj_bias", tuple(f"{name}/{part}/bias" for part in parts)),
        *_pair(f"{key}.out_proj", f"{name}/out"),
    ]


def _split_attention(key: str, name: str) -> list[Row]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [row for there, here in parts.items() for row in _pair(f"{key}.{there}", f"{name}/{here}")]


def _norms(there: str, here: str, keys: tuple[str, ...]) -> list[Row]:
    return [
        row for place, key in enumerate(keys) for row in _layer_norm(f"{there}.{key}", f"{here}/residuals/{place}/norm")
    ]


_ENCODER, _DECODER = "transformer/encoder/{}", "transformer/decoder/{}"

_ORIGINAL_BUT_BACKBONE = [
    *_pair("input_proj", "input_projection", POINTWISE),
    Row("query_embed.weight", ("query_positions",)),
    *_packed_attention("transformer.encoder.layers.{}.self_attn", f"{_ENCODER}/self_attention"),
    *_pair("transformer.encoder.layers.{}.linear1", f"{_ENCODER}/feed_forward/linear1"),
    *_pair("transformer.encoder.layers.{}.linear2", f"{_ENCODER}/feed_forward/linear2"),
    *_norms("transformer.encoder.layers.{}", _ENCODER, ("norm1", "norm2")),
    *_packed_attention("transformer.decoder.layers.{}.self_attn", f"{_DECODER}/self_attention"),
    *_packed_attention("transformer.decoder.layers.{}.multihead_attn", f"{_DECODER}/cross_attention"),
    *_pair("transformer.decoder.layers.{}.linear1", f"{_DECODER}/feed_forward/linear1"),
    *_pair("transformer.decoder.layers.{}.linear2", f"{_DECODER}/feed_forward/linear2"),
    *_norms("transformer.decoder.layers.{}", _DECODER, ("norm1", "norm2", "norm3")),
    *_layer_norm("transformer.encoder.norm", "transformer/encoder_norm"),
    *_layer_norm("transformer.decoder.norm", "transformer/decoder_norm"),
    *_pair("class_embed", "class_head"),
    *_pair("bbox_embed.layers.{}", "box_head/layers/{}"),
    Row("backbone.1.row_embed.weight", ("positions/rows",)),
    Row("backbone.1.col_embed.weight", ("positions/columns",)),
]

_HUGGINGFACE_BUT_BACKBONE = [
    *_pair("model.input_projection", "input_projection", POINTWISE),
    Row("model.query_position_embeddings.weight", ("query_positions",)),
    *_split_attention("model.encoder.layers.{}.self_attn", f"{_ENCODER}/self_attention"),
    *_pair("model.encoder.layers.{}.fc1", f"{_ENCODER}/feed_forward/linear1"),
    *_pair("model.encoder.layers.{}.fc2", f"{_ENCODER}/feed_forward/linear2"),
    *_norms("model.encoder.layers.{}", _ENCODER, ("self_attn_layer_norm", "final_layer_norm")),
    *_split_attention("model.decoder.layers.{}.self_attn", f"{_DECODER}/self_attention"),
    *_split_attention("model.decoder.layers.{}.encoder_attn", f"{_DECODER}/cross_attention"),
    *_pair("model.decoder.layers.{}.fc1", f"{_DECODER}/feed_forward/linear1"),
    *_pair("model.decoder.layers.{}.fc2", f"{_DECODER}/feed_forward/linear2"),
    *_norms(
        "model.decoder.layers.{}", _DECODER, ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    ),
    *_layer_norm("model.encoder.layernorm", "transformer/encoder_norm"),
    *_layer_norm("model.decoder.layernorm", "transformer/decoder_norm"),
    *_pair("class_labels_classifier", "class_head"),
    *_pair("bbox_predictor.layers.{}", "box_head/layers/{}"),
    Row("model.position_embedding.row_embeddings.weight", ("positions/rows",)),
    Row("model.position_embedding.column_embeddings.weight", ("positions/columns",)),
]

_MASK_HEAD = [  # called alike everywhere, outside the prefix of the detector that it stands on
    *_pair("bbox_attention.q_linear", "mask_head/attention/query"),
    *_pair("bbox_attention.k_linear", "mask_head/attention/key"),
    *_pair("mask_head.lay{}", "mask_head/conv{}", CONV),
    *_layer_norm("mask_head.gn{}", "mask_head/norm{}"),
    *_pair("mask_head.adapter{}", "mask_head/adapter{}", POINTWISE),
    *_pair("mask_head.out_lay", "mask_head/output", CONV),
]


def panoptic(detector: list[Row]) -> list[Row]:
    """The table of a mask model, in which a detector of table ``detector`` is a part."""
    return prefixed("detr.", detector) + _MASK_HEAD


ORIGINAL = prefixed("backbone.0.body.", RESNET) + _ORIGINAL_BUT_BACKBONE
_DETECTRON2 = prefixed("backbone.0.backbone.", _RESNET_D2) + _ORIGINAL_BUT_BACKBONE
DETECTRON2 = prefixed("detr.", _DETECTRON2)
DETECTRON2_PANOPTIC = prefixed("detr.", panoptic(_DETECTRON2))
HUGGINGFACE_TIMM = prefixed("model.backbone.conv_encoder.model.", RESNET) + _HUGGINGFACE_BUT_BACKBONE
HUGGINGFACE = prefixed("model.backbone.conv_encoder.model.", _RESNET_NATIVE) + _HUGGINGFACE_BUT_BACKBONE

# ---- reading a table -----------------------------------------------------------------------------------------------


def translate(text: str, source: str, target: str) -> str | None:
    """``text`` rewritten from pattern ``source`` to pattern ``target``, or None when it does not match.

    >>> translate("layer1.0.conv2.weight", "layer{}.{}.conv{}.weight", "layer{}/{}/conv{}/kernel")
    'layer1/0/conv2/kernel'
    """
    match = re.fullmatch(re.escape(source).replace(r"\{\}", r"(\d+)"), text)
    return target.format(*match.groups()) if match else None


def names_of(key: str, table: list[Row]) -> tuple[tuple[str, ...], str] | None:
    """(names here, transform) of a foreign key, or None when no row covers it."""
    for row in table:
        if translate(key, row.key, "") is not None:
            return tuple(translate(key, row.key, name) for name in row.names), row.transform
    return None


def to_here(tensors: Mapping[str, np.ndarray], table: list[Row]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Foreign tensors by the names they have here, and the keys that no row covers. Views where that is possible.

    Raises ValueError, which names the key, for a tensor with another number of axes than its row says.
    """
    arrays, unknown = {}, []
    for key, tensor in tensors.items():
        names, transform = names_of(key, table) or ((), SAME)
        if not names:
            unknown.append(key)
            continue
        try:
            for name, part in zip(names, np.split(tensor, len(names)), strict=True):
                arrays[name] = _stored(part, transform)
        except (ValueError, IndexError) as error:  # too few axes to transpose, no thirds to split
            raise ValueError(f"{key} has shape {tensor.shape}") from error
    return arrays, unknown


def to_there(arrays: Mapping[str, np.ndarray], table: list[Row]) -> dict[str, np.ndarray]:
    """The tensors of a layout, from all arrays of a model. Raises KeyError for an array that no row covers."""
    tensors = {}
    for name in arrays:
        for row in table:
            key = translate(name, row.names[0], row.key)
            if key is not None:
                names, _ = names_of(key, [row])
                parts = [_restored(np.asarray(arrays[one]), row.transform) for one in names]
                tensors[key] = parts[0] if len(parts) == 1 else np.concatenate(parts)
                break
            if any(translate(name, other, "") is not None for other in row.names[1:]):
                break  # written with the first of its row
        else:
            raise KeyError(name)
    return tensors


def _stored(tensor: np.ndarray, transform: str) -> np.ndarray:
    if transform == CONV:
        return tensor.transpose(2, 3, 1, 0)
    if transform == POINTWISE:
        return tensor[:, :, 0, 0].T
    return tensor.T if transform == LINEAR else tensor


def _restored(array: np.ndarray, transform: str) -> np.ndarray:
    if transform == CONV:
        return array.transpose(3, 2, 0, 1)
    if transform == POINTWISE:
        return array.T[:, :, None, None]
    return array.T if transform == LINEAR else array
