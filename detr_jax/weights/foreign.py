"""Files of other frameworks: read safely, recognised by what is in them and not by their names.

.npz, .safetensors    read without PyTorch
.pth                  read by PyTorch's weights-only loader, which never runs code from the file
"""

import argparse
import hashlib
import importlib
import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from detr_jax.errors import UserError
from detr_jax.weights import torch_names
from detr_jax.weights.torch_names import Row

# The released files are named after their own digest, by which the dilated ones, equal in every shape, are known.
RELEASED_DC5 = ("f0fb7ef5", "a2e86def", "da08f1b1")
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
    tensors, settings = _read_tensors(file)
    tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items() if not key.endswith(IGNORED)}
    layout = recognise(tensors, file)
    try:
        arrays, unused = torch_names.to_here(tensors, layout.table)
    except ValueError as error:
        raise UserError(f"{file} looks like {layout.title}, but {error}, which does not fit there") from error
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


def _read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a file, whatever its container, and settings that came with them."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_numpy = all(name.endswith(".npy") for name in archive.namelist())
        return (_read_npz(path), {}) if is_numpy else _read_torch(path)
    if start[8:9] == b"{":
        return _read_safetensors(path), {}
    if start[:2] == b"\x80\x02":  # torch before 1.6
        return _read_torch(path)
    lowered = start.lstrip().lower()
    looks = (
        "empty" if not start
        else "a web page: the download went wrong" if lowered.startswith((b"<!doctype", b"<html", b"<?xml"))
        else "a truncated archive" if start[:2] == b"PK"
        else "an ONNX model" if start[:1] == b"\x08" and start[2:3] in (b"\x12", b":")  # its version, then its producer
        else "a pointer to a file that Git LFS has not fetched" if start.startswith(b"version https://git-lfs")
        else "a pickle" if start[:1] == b"\x80"
        else "no file with weights"
    )  # fmt: skip
    raise UserError(f"{path} is {looks}; pass a .pth, .safetensors or .npz file with weights")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as archive:  # object arrays are refused: they would be unpickled
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or holds something else than arrays ({error}); get it again") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); get it again") from error


def pytorch(path: Path):
    """The torch module, which only ``.pth`` files need and nothing else imports. Raises UserError without it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file: type pip install torch, or use safetensors, which needs no PyTorch"
        ) from error


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    torch = pytorch(path)
    try:
        # The original keeps its command line, an argparse.Namespace, beside the weights; it only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the loader stumble anywhere
        if isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower():
            raise UserError(
                f"{path} holds Python objects beside tensors, and nothing is unpickled here; save only its state_dict, "
                "or convert it to safetensors where you trust it"
            ) from error
        raise UserError(f"{path} is not a whole PyTorch file ({_first_line(error)}); get it again") from error
    args = content.get("args") if isinstance(content, dict) else None
    for inner in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is a PyTorch file but holds no table of tensors; save the model's state_dict")
    try:
        tensors = {key: tensor.detach().to(torch.float32).numpy() for key, tensor in content.items()}
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path} is a PyTorch file but holds other things than plain tensors ({_first_line(error)}); save the "
            "model's state_dict"
        ) from error
    settings = {}
    if isinstance(args, argparse.Namespace):
        settings = {"dilation": bool(getattr(args, "dilation", False)), "heads": int(getattr(args, "nheads", 8))}
    elif hashlib.sha256(path.read_bytes()).hexdigest().startswith(RELEASED_DC5):
        settings = {"dilation": True}
    return tensors, settings


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch then advises to run whatever is in the file
        return "its pickle is damaged"
    return (str(error).splitlines() or [type(error).__name__])[0]


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
