"""The conversion program: weights come back bit for bit by every way, and wrong files are named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from detr_jax.config_forms import to_dict
from detr_jax.convert import convert
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights import foreign, torch_names
from detr_jax.weights.checkpoints import Checkpoints, Stored, read_info
from detr_jax.weights.sources import load_weights
from tests.weights.small_models import assert_equal, random_arrays, small_model, write


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(small_model(), 91)


@pytest.mark.parametrize("backbone, dilation, masks", [
    ("native", False, False), ("native", True, False), ("native", False, True), ("timm", False, False),
    ("timm", True, True),
])  # fmt: skip
def test_there_and_back_bit_for_bit(backbone, dilation, masks, tmp_path, capsys):
    """A Hugging Face file comes back with its own keys, by way of a checkpoint and directly."""
    table = torch_names.panoptic(foreign.HUGGINGFACE[backbone]) if masks else foreign.HUGGINGFACE[backbone]
    model = small_model(masks=masks, heads=8, backbone="resnet18")
    tensors = torch_names.to_there(random_arrays(model, 5), table)
    (tmp_path / "hf").mkdir()
    write(tmp_path / "hf" / "model.safetensors", tensors)
    names = {str(row): f"thing {row}" for row in range(5)}
    config = {"id2label": names, "encoder_attention_heads": 8, "dilation": dilation}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    convert(source=tmp_path / "hf", output=tmp_path / "ours")
    convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")
    said = capsys.readouterr().out
    assert ("no dilation" in said) == (dilation and backbone == "native")
    convert(source=tmp_path / "hf", output=tmp_path / "direct", to="huggingface")
    for folder in ("again", "direct"):
        assert_equal(load_file(tmp_path / folder / "model.safetensors"), tensors)
        written = json.loads((tmp_path / folder / "config.json").read_text())
        assert written.items() >= config.items()
        assert written["architectures"] == ["DetrForSegmentation" if masks else "DetrForObjectDetection"]
        assert written["use_timm_backbone"] == (backbone == "timm")
    assert load_weights(tmp_path / "again").model.dilation == dilation
    assert read_info(tmp_path / "ours" / "checkpoints" / "0").keys() >= {"model", "categories", "step"}
    with pytest.raises(UserError, match="exists already"):
        convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")


def test_without_a_record_dc5_gets_timm_keys_and_the_flag_overrules_the_source(arrays, tmp_path):
    source = write(tmp_path / "original.pth", torch_names.to_there(arrays, torch_names.ORIGINAL))
    for word, changes in (("native", {}), ("timm", {"dilation": True})):
        convert(source=source, output=tmp_path / word, to="huggingface", **changes)
        found = load_file(tmp_path / word / "model.safetensors")
        assert found.keys() == torch_names.to_there(arrays, foreign.HUGGINGFACE[word]).keys()
    convert(source=source, output=tmp_path / "ours")
    convert(source=tmp_path / "ours", output=tmp_path / "ours_dc5", dilation=True)
    assert load_weights(tmp_path / "ours_dc5").model.dilation


def test_what_other_frameworks_do_not_have_stays_here(tmp_path):
    model = small_model(stride_in_1x1=True)
    info = {"model": to_dict(model), "categories": Categories((1, 2), ("a", "b")).to_rows()}
    with Checkpoints(tmp_path / "ours" / "checkpoints", keep=1) as saved:
        saved.save(0, Stored(random_arrays(model, 2), {}, {}, info))
    with pytest.raises(UserError, match="stride_in_1x1"):
        convert(source=tmp_path / "ours", output=tmp_path / "out", to="official")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind, words", [
    ("empty", "is empty"), ("html", "web page"), ("truncated", "not a whole safetensors"),
    ("text", "no file with weights"), ("pickle", "is a pickle"), ("demo", "demo notebook"),
    ("strange", "neither a DETR nor a ResNet"), ("missing key", "is missing"), ("wrong shape", "has shape"),
    ("resnet", "not a detector"), ("nowhere", "does not exist"), ("onnx", "an ONNX model"), ("lfs", "Git LFS"),
    ("no axes", "bbox_embed.layers.1.weight has shape"), ("classes", "names 2 classes"), ("config", "not the config"),
    ("gelu", "activation_function=gelu"), ("two heads", "decoder_attention_heads=2"),
])  # fmt: skip
def test_wrong_files_are_named_and_nothing_is_written(arrays, kind, words, tmp_path):
    path = tmp_path / "file.pth"
    tensors = {key: np.ascontiguousarray(x) for key, x in torch_names.to_there(arrays, torch_names.ORIGINAL).items()}
    if kind == "truncated":
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "missing key":
        save_file({key: x for key, x in tensors.items() if key != "bbox_embed.layers.1.weight"}, path)
    elif kind == "wrong shape":
        save_file(tensors | {"bbox_embed.layers.1.weight": np.zeros((3, 32), np.float32)}, path)
    elif kind == "no axes":
        save_file(tensors | {"bbox_embed.layers.1.weight": np.zeros((), np.float32)}, path)
    elif kind in ("classes", "config", "gelu", "two heads"):
        write(path, torch_names.to_there(arrays, torch_names.HUGGINGFACE))
        config = {
            "classes": {"id2label": {"0": "a", "1": "b"}}, "config": [1], "gelu": {"activation_function": "gelu"},
            "two heads": {"encoder_attention_heads": 1, "decoder_attention_heads": 2},
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config[kind]))
    elif kind == "demo":
        save_file({"linear_class.weight": np.zeros(3), "query_pos": np.zeros(3), "conv.weight": np.zeros(3)}, path)
    elif kind == "strange":
        save_file({"encoder.weight": np.zeros(3)}, path)
    elif kind == "resnet":
        save_file({key.removeprefix("backbone.0.body."): x for key, x in tensors.items() if "backbone.0" in key}, path)
    elif kind != "nowhere":
        content = {
            "empty": b"",
            "html": b"<!DOCTYPE html><html>",
            "text": b"hello there",
            "pickle": b"\x80\x04\x95abc.",
            "onnx": b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:",
            "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
        }
        path.write_bytes(content[kind])
    with pytest.raises(UserError, match=words):
        convert(source=path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
