"""Weights of other frameworks, recognised by what is in a file and not by its name."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detr_jax.errors import UserError
from detr_jax.weights import torch_names
from detr_jax.weights.containers import read_tensors
from detr_jax.weights.torch_names import Row

HUGGINGFACE_CONFIG = "config.json"
HUGGINGFACE_WEIGHTS = "model.safetensors"
IGNORED = "num_batches_tracked"  # a counter of batch norm that nothing reads


class Layout(NamedTuple):
    """One way to name the tensors of a model."""

    title: str
    sign: str  # a key that only this layout has
    table: list[Row]
    huggingface_backbone: str | None = None  # whose names a Hugging Face file has for the backbone


# Hugging Face's two key layouts: transformers' own ResNet, or timm's.
HUGGINGFACE = {"native": torch_names.HUGGINGFACE, "timm": torch_names.HUGGINGFACE_TIMM}
_STEM = {"native": "embedder.embedder.convolution.weight", "timm": "conv1.weight"}
LAYOUTS = [
    Layout("a DETR of the original", "backbone.0.body.conv1.weight", torch_names.ORIGINAL),
    Layout(
        "a DETR of the original inside a mask model",
        "detr.backbone.0.body.conv1.weight",
        torch_names.panoptic(torch_names.ORIGINAL),
    ),
    Layout("a DETR of Detectron2", "detr.backbone.0.backbone.stem.conv1.weight", torch_names.DETECTRON2),
    Layout(
        "a DETR of Detectron2 inside a mask model",
        "detr.detr.backbone.0.backbone.stem.conv1.weight",
        torch_names.DETECTRON2_PANOPTIC,
    ),
    *(
        Layout(
            f"a Hugging Face DETR with a {backbone} backbone",
            f"model.backbone.conv_encoder.model.{_STEM[backbone]}",
            table,
            huggingface_backbone=backbone,
        )
        for backbone, table in HUGGINGFACE.items()
    ),
    *(
        Layout(
            f"a Hugging Face DETR with a {backbone} backbone inside a mask model",
            f"detr.model.backbone.conv_encoder.model.{_STEM[backbone]}",
            torch_names.panoptic(table),
            huggingface_backbone=backbone,
        )
        for backbone, table in HUGGINGFACE.items()
    ),
    Layout("a ResNet", "layer1.0.bn1.weight", torch_names.RESNET),
    Layout("a ResNet with folded batch norm", "layer1.0.conv1.bias", torch_names.RESNET_FOLDED),
]

# What other files look like, by keys that give them away.
STRANGERS = {
    "the demo notebook's model, whose layers differ from DETR's": ("linear_class.weight", "query_pos"),
    "a Deformable DETR": ("transformer.level_embed",),
    "a conditional or DAB-DETR": ("transformer.decoder.ref_point_head.layers.0.weight",),
    "a vision transformer": ("cls_token",),
}


class Foreign(NamedTuple):
    """A file's arrays by the names they have here."""

    layout: Layout
    arrays: dict[str, np.ndarray]
    unused: list[str]  # keys without a place here
    settings: dict[str, Any]  # of ``ModelConfig``: what the file tells and the shapes do not
    classes: dict[int, str] | None  # name of each row of the class head, when the file says


def read_foreign(path: str | Path) -> Foreign:
    """Reads a file, or a folder with ``model.safetensors``.

    Raises UserError: nothing there, damaged, of another kind, or none of the known layouts; names what it looks like.
    """
    path = Path(path)
    file = path / HUGGINGFACE_WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist; pass a workdir, a checkpoint, or a .pth, .safetensors or .npz file")
    tensors, settings = read_tensors(file)
    tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items() if not key.endswith(IGNORED)}
    layout = recognise(tensors, file)
    try:
        arrays, unused = torch_names.to_here(tensors, layout.table)
    except ValueError as error:
        raise UserError(f"{file} looks like {layout.title}, but {error}, which does not fit there") from error
    _check_values(file, arrays)
    more, classes = _huggingface_config(file.parent) if layout.huggingface_backbone else ({}, None)
    return Foreign(layout, arrays, unused, settings | more, classes)


def recognise(keys, path: Path) -> Layout:
    """The layout of a set of keys. Raises UserError that says what they look like instead."""
    for layout in LAYOUTS:
        if layout.sign in keys:
            return layout
    for title, signs in STRANGERS.items():
        if all(sign in keys for sign in signs):
            raise UserError(f"{path} looks like {title}; it cannot be loaded as a DETR")
    some = f" ({', '.join(list(keys)[:3])}, ...)" if keys else ""
    raise UserError(
        f"{path} holds {len(keys)} tensors{some} but neither a DETR nor a ResNet; pass a checkpoint of the "
        "original, Detectron2, Hugging Face or torchvision"
    )


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises UserError when an array is not of numbers, or one of them is not finite in float32."""
    for name, array in arrays.items():
        try:
            with np.errstate(over="ignore"):
                is_finite = array.dtype.kind != "c" and np.isfinite(array.astype(np.float32)).all()
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {name} has type {array.dtype}; weights are real numbers") from error
        if not is_finite:
            raise UserError(f"{path}: {name} holds NaN, infinite or complex values; take an earlier checkpoint")


def _huggingface_config(folder: Path) -> tuple[dict[str, Any], dict[int, str] | None]:
    """What config.json beside the weights says and the shapes do not.

    Raises UserError when it is damaged, or asks for what this DETR does not have.
    """
    path = folder / HUGGINGFACE_CONFIG
    if not path.is_file():
        return {}, None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        backbone = config.get("backbone_config") or {}
        heads = int(config.get("encoder_attention_heads", 8))
        settings = {
            "dilation": bool(config.get("dilation") or backbone.get("output_stride") == 16),
            "heads": heads,
            "dropout": float(config.get("dropout", 0.1)),
            "stride_in_1x1": bool(backbone.get("downsample_in_bottleneck")),
        }
        for key, ours in {"activation_function": "relu", "decoder_attention_heads": heads}.items():
            if config.get(key, ours) != ours:
                raise UserError(f"{path} asks for {key}={config[key]}, but this DETR has only {ours} there")
        labels = config.get("id2label")
        return settings, {int(row): str(name) for row, name in labels.items()} if labels else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the config.json of a DETR ({error}); get it again, or remove it") from error
