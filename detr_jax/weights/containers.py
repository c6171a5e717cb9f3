"""Files with tensors, read safely: nothing is unpickled, and nothing is read that the file does not have.

.npz, .safetensors    read without PyTorch
.pth                  read by PyTorch's weights-only loader, which never runs code from the file
"""

import argparse
import hashlib
import importlib
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from detr_jax.errors import UserError, first_line

# The released files are named after their own digest, by which the dilated ones, equal in every shape, are known.
RELEASED_DC5 = ("f0fb7ef5", "a2e86def", "da08f1b1")
MOST_HEADER = 10_000_000  # bytes of the header of a safetensors file; a DETR has 0.1 MB
MOST_PACKED = 20  # times that weights become larger when they are unpacked; trained ones hardly do
UNPACKED_FREELY = 100_000_000  # bytes; small files of constant values may be packed better


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a file, whatever its container, and settings that came with them."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        members = _list_archive(path)
        is_numpy = all(member.filename.endswith(".npy") for member in members)
        return (_read_npz(path, members), {}) if is_numpy else _read_torch(path)
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


def _list_archive(path: Path) -> list[zipfile.ZipInfo]:
    """The directory of an archive. Raises UserError when it is damaged, or promises more than the file can hold."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises BadZipFile, NotImplementedError, struct.error, UnicodeError, ...
        raise UserError(f"{path} is a damaged archive ({_reason(error)}); get it again") from error
    packed, unpacked = sum(member.compress_size for member in members), sum(member.file_size for member in members)
    if packed > size or unpacked > max(UNPACKED_FREELY, MOST_PACKED * size):
        raise UserError(f"{path} is damaged: its {size:,} bytes claim to hold {unpacked:,}; get it again")
    return members


def _read_npz(path: Path, members: list[zipfile.ZipInfo]) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                arrays[member.filename.removesuffix(".npy")] = _read_array(archive, member)
    except Exception as error:  # as in ``_list_archive``
        raise UserError(
            f"{path} is damaged or holds something else than arrays ({_reason(error)}); get it again"
        ) from error
    return arrays


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array, read only if the file has as many bytes as its header says. Raises ValueError."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{member.filename} has version {version}")
        shape, is_fortran, dtype = read_header[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, and nothing is unpickled here")
        count = math.prod(shape)
        if min(shape, default=0) < 0 or count * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} does not have the {count * dtype.itemsize:,} bytes of its {shape} array"
            )
        content = file.read(count * dtype.itemsize)
    array = np.frombuffer(content, dtype, count)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MOST_HEADER or header + 8 > path.stat().st_size:
        raise UserError(f"{path} is not a whole safetensors file (its header has {header:,} bytes); get it again")
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, KeyError of an unknown type, OverflowError, ...
        raise UserError(f"{path} is not a whole safetensors file ({_reason(error)}); get it again") from error


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
        raise UserError(f"{path} is not a whole PyTorch file ({_reason(error)}); get it again") from error
    args = content.get("args") if isinstance(content, dict) else None
    for inner in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is a PyTorch file but holds no table of tensors; save the model's state_dict")
    try:
        tensors = {key: _to_numpy(tensor, torch.float32) for key, tensor in content.items()}
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path} is a PyTorch file but holds other things than plain tensors ({_reason(error)}); save the "
            "model's state_dict"
        ) from error
    settings = {}
    if isinstance(args, argparse.Namespace):
        heads = getattr(args, "nheads", 8)
        settings = {"dilation": bool(getattr(args, "dilation", False)), "heads": heads if isinstance(heads, int) else 8}
    elif hashlib.sha256(path.read_bytes()).hexdigest().startswith(RELEASED_DC5):
        settings = {"dilation": True}
    return tensors, settings


def _to_numpy(tensor, dtype) -> np.ndarray:
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor is larger than its data")
    return tensor.detach().to(dtype).numpy()


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch then advises to run whatever is in the file
        return "its pickle is damaged"
    return first_line(error)
