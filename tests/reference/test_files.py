"""Files that PyTorch writes are read here, and files that are written here load in transformers with strict keys."""

import argparse
import os
import pickle

import numpy as np
import peer
import pytest
import torch
from safetensors.torch import save_file
from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation

from detr_jax.convert import convert
from detr_jax.errors import UserError
from detr_jax.inference.detector import load
from detr_jax.weights import sources, torch_names
from detr_jax.weights.sources import load_weights

CONFIGURATIONS = {
    "few": peer.NARROW | {"num_classes": 3, "num_queries": 7, "heads": 8, "decoder_layers": 3},
    "dc5": peer.NARROW | {"dilation": True},
    "r101": peer.NARROW | {"backbone": "resnet101"},
    "r18": peer.NARROW | {"backbone": "resnet18"},
    "caffe": peer.NARROW | {"stride_in_1x1": True},
    "learned": peer.NARROW | {"position_embedding": "learned"},
    "masks": peer.NARROW | {"masks": True, "heads": 8, "num_classes": 250},
    "masks_dc5": peer.NARROW | {"masks": True, "heads": 8, "dilation": True},
}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def built(request):
    return peer.build(seed=31, **CONFIGURATIONS[request.param])


@pytest.fixture(scope="module")
def few():
    return peer.build(seed=32, **CONFIGURATIONS["few"])


def tensors(arrays: dict[str, np.ndarray], table) -> dict[str, torch.Tensor]:
    return {
        key: torch.from_numpy(np.array(tensor, order="C"))
        for key, tensor in torch_names.to_there(arrays, table).items()
    }


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def answers(model) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model.eval()(peer.pixels(peer.noise(1, 1, 96, 131)))
    return [found.logits, found.pred_boxes, *([found.pred_masks] if "pred_masks" in found else [])]


def test_an_export_loads_in_transformers_with_strict_keys(built, tmp_path, capsys):
    """Saved by transformers, converted, exported, loaded by transformers: no key too many or few, the same answers."""
    built.model.save_pretrained(tmp_path / "theirs")
    masks = isinstance(built.model, DetrForSegmentation)
    body = (built.model.detr if masks else built.model).model.backbone.model
    dilated = body.encoder.stages[3].layers[0].shortcut.convolution.stride == (1, 1)
    convert(tmp_path / "theirs", tmp_path / "ours", dilation=dilated)
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    assert ("no dilation" in capsys.readouterr().out) == dilated
    cls = DetrForSegmentation if masks else DetrForObjectDetection
    model, report = cls.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    if dilated:
        peer.dilate(model.detr if masks else model)
    assert model.config.id2label == built.model.config.id2label
    assert model.config.architectures == [cls.__name__]
    for ours, theirs in zip(answers(model), answers(built.model), strict=True):
        assert theirs.std() > 0.01
        assert peer.largest(ours, theirs) <= 1e-6
    assert_equal(load(tmp_path / "back").arrays | {}, built.arrays)


def test_through_the_originals_file_and_back(built, tmp_path):
    built.model.save_pretrained(tmp_path / "theirs")
    if built.model.config.backbone_config.downsample_in_bottleneck:  # unknown there
        with pytest.raises(UserError, match="stride_in_1x1"):
            convert(tmp_path / "theirs", tmp_path / "original.pth", to="official")
        return
    convert(tmp_path / "theirs", tmp_path / "original.pth", to="official")
    content = torch.load(tmp_path / "original.pth", weights_only=True)["model"]
    masks = isinstance(built.model, DetrForSegmentation)
    wanted = tensors(built.arrays, torch_names.panoptic(torch_names.ORIGINAL) if masks else torch_names.ORIGINAL)
    assert content.keys() == wanted.keys() and all(torch.equal(content[key], wanted[key]) for key in wanted)
    assert_equal(load_weights(tmp_path / "original.pth").arrays, built.arrays)


def test_timms_config_is_understood(few, tmp_path):
    """timm is not asked for: transformers reads the config, and the tensors are those of the layout's table."""
    torch.save(tensors(few.arrays, torch_names.ORIGINAL), tmp_path / "original.pth")
    convert(tmp_path / "original.pth", tmp_path / "timm", to="huggingface", dilation=True)
    backbone = DetrConfig.from_pretrained(tmp_path / "timm").backbone_config
    assert (backbone.model_type, backbone.backbone, backbone.output_stride) == ("timm_backbone", "resnet50", 16)
    source = load_weights(tmp_path / "timm")
    assert source.huggingface_backbone == "timm" and source.model.dilation
    assert_equal(source.arrays, few.arrays)


SOURCES = {  # what PyTorch may have written, for the original's tensors
    "bare": lambda original: original,
    "under model": lambda original: {"model": original},
    "prefix": lambda original: {"model": {f"detr.{key}": tensor for key, tensor in original.items()}},
    "a training": lambda original: {
        "model": {f"module.{key}": tensor for key, tensor in original.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "epoch": 3,
        "args": argparse.Namespace(dilation=False, nheads=8, output_dir=""),
    },
    "parameters": lambda original: {key: torch.nn.Parameter(tensor) for key, tensor in original.items()},
    "not contiguous": lambda original: {
        key: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for key, tensor in original.items()
    },
    "slices": lambda original: {key: torch.stack([tensor, tensor])[1] for key, tensor in original.items()},
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_of_the_original(few, kind, tmp_path):
    torch.save(SOURCES[kind](tensors(few.arrays, torch_names.ORIGINAL)), tmp_path / "file")
    source = load_weights(tmp_path / "file")
    assert source.model is not None and not source.unused
    assert_equal(source.arrays, few.arrays)
    assert not source.model.dilation
    assert source.model.heads == (8 if kind == "a training" else 2)  # else 32 features a head, as the original has


def test_sources_of_others(few, tmp_path):
    torch.save({"model": tensors(few.arrays, torch_names.DETECTRON2)}, tmp_path / "detectron2.pth")
    original = tensors(few.arrays, torch_names.ORIGINAL)
    torch.save(original, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors(few.arrays, torch_names.HUGGINGFACE_TIMM), tmp_path / "timm.safetensors")
    for name in ("detectron2.pth", "old.pth", "timm.safetensors"):
        assert_equal(load_weights(tmp_path / name).arrays, few.arrays)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_half_precision_becomes_float32(few, precision, container, tmp_path):
    half = {key: tensor.to(precision) for key, tensor in tensors(few.arrays, torch_names.ORIGINAL).items()}
    (torch.save if container == "pth" else save_file)(half, tmp_path / "file")
    wanted, _ = torch_names.to_here({key: tensor.float().numpy() for key, tensor in half.items()}, torch_names.ORIGINAL)
    assert_equal(load_weights(tmp_path / "file").arrays, wanted)


@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_a_torchvision_resnet_is_a_backbone(few, container, tmp_path):
    original = tensors(few.arrays, torch_names.ORIGINAL)
    body = {key.removeprefix("backbone.0.body."): tensor for key, tensor in original.items() if "backbone" in key}
    body |= {"fc.weight": torch.zeros(1000, 256), "fc.bias": torch.zeros(1000)}
    body["bn1.num_batches_tracked"] = torch.tensor(7)
    (torch.save if container == "pth" else save_file)(body, tmp_path / "file")
    found, report = sources.fit_backbone(load_weights(tmp_path / "file"), few.network.shapes)
    assert_equal(found, {name: array for name, array in few.arrays.items() if name.startswith("backbone/")})
    assert sorted(report.unused) == ["fc.bias", "fc.weight"]


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def wrong(kind: str, original: dict[str, torch.Tensor], path) -> None:
    """Writes a file that is none."""
    if kind == "code":
        torch.save({"model": original, "callback": Code(f"touch {path.parent}/ran")}, path)
    elif kind == "pickle with code":
        path.write_bytes(pickle.dumps({"model": Code(f"touch {path.parent}/ran")}, protocol=2))
    elif kind == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "onnx":
        path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:")
    elif kind.startswith("truncated"):
        torch.save(original, path, _use_new_zipfile_serialization=kind != "truncated old")
        path.write_bytes(path.read_bytes()[:20000])
    else:
        content = {
            "one tensor": torch.zeros(3), "no tensors": {"model": {}}, "numbers": {"model": {"a": 1}},
            "sparse": {key: tensor.to_sparse() for key, tensor in original.items()}, "numbered": {1: torch.zeros(2)},
            "no axes": original | {"class_embed.weight": torch.zeros(())},
            "missing": {key: tensor for key, tensor in original.items() if key != "transformer.decoder.norm.weight"},
            "shape": original | {"bbox_embed.layers.0.weight": torch.zeros(64, 3)},
        }  # fmt: skip
        torch.save(content[kind], path)


@pytest.mark.parametrize("kind, words", {
    "code": "nothing is unpickled", "pickle with code": "nothing is unpickled", "module": "nothing is unpickled",
    "onnx": "an ONNX model", "truncated": "truncated", "truncated old": "not a whole PyTorch file",
    "one tensor": "no table of tensors", "no tensors": "holds 0 tensors", "numbers": "other things than plain tensors",
    "sparse": "other things than plain tensors", "numbered": "no table of tensors",
    "no axes": "class_embed.weight has shape", "missing": "transformer/decoder_norm/scale is missing",
    "shape": "box_head/layers/0/kernel has shape",
}.items())  # fmt: skip
def test_wrong_files_are_one_sentence_and_run_nothing(few, kind, words, tmp_path):
    wrong(kind, tensors(few.arrays, torch_names.ORIGINAL), tmp_path / "file.pth")
    with pytest.raises(UserError, match=words) as raised:
        convert(tmp_path / "file.pth", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
