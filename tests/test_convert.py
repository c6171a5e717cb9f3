"""Weights in and out: every layout covers every array once, round trips are bit-equal, wrong files are named."""

import functools
import json
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from configs import detr as configs
from detr_jax import convert, detector, program
from detr_jax.models import detr
from detr_jax.program import UserError
from detr_jax.structures import Categories
from detr_jax.weights import pretrained, torch_names
from detr_jax.weights.checkpoints import Checkpoints, Stored

LAYOUTS = {
    "ORIGINAL": torch_names.ORIGINAL,
    "DETECTRON2": torch_names.DETECTRON2,
    "HUGGINGFACE": torch_names.HUGGINGFACE,
    "HUGGINGFACE_TIMM": torch_names.HUGGINGFACE_TIMM,
}
SMALL = {
    "backbone_width": 8, "hidden_dim": 32, "heads": 1, "encoder_layers": 2, "decoder_layers": 2, "feed_forward_dim": 48,
    "num_queries": 7,
}  # fmt: skip


def small_config(**changes) -> dict:
    config = program.plain(configs.get_config("r50"))
    config["model"] |= SMALL | changes
    return config


def random_arrays(config: dict, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every array of a model."""
    random = np.random.default_rng(seed)
    shapes = shapes_of(json.dumps(config), classes)
    return {name: random.normal(size=shape.shape).astype(np.float32) for name, shape in shapes.items()}


@functools.cache
def shapes_of(config: str, classes: int):
    """Names and shapes of a model's arrays, traced once."""
    return detector.build_network(json.loads(config), classes).shapes


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(small_config(), 91)


@pytest.mark.parametrize(
    "variant", [{}, {"position_embedding": "learned"}, {"pre_norm": True}, {"backbone": "resnet18"}]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_and_key_has_exactly_one_row_and_comes_back(layout, variant):
    table, arrays = LAYOUTS[layout], random_arrays(small_config(**variant), 5)
    for name in arrays:
        rows = [row for row in table for one in row.names if torch_names.translate(name, one, "") is not None]
        assert len(rows) == 1, name
    there = torch_names.to_there(arrays, table)
    for key in there:
        assert sum(torch_names.translate(key, row.key, "") is not None for row in table) == 1, key
    back, unknown = torch_names.to_here(there, table)
    assert back.keys() == arrays.keys() and not unknown
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    packed = sum("in_proj" in key for key in there)
    assert len(there) == len(arrays) - 2 * packed


def test_packed_attention_is_query_key_value(arrays):
    packed = torch_names.to_there(arrays, torch_names.ORIGINAL)[
        "transformer.decoder.layers.1.multihead_attn.in_proj_weight"
    ]
    name = "transformer/decoder/1/cross_attention"
    parts = [arrays[f"{name}/{part}/kernel"].T for part in ("query", "key", "value")]
    np.testing.assert_array_equal(packed, np.concatenate(parts))


def test_tensors_of_the_released_model():
    config = program.plain(configs.get_config("r50"))
    shapes = {name: np.zeros(shape.shape, np.int8) for name, shape in detector.build_network(config, 91).shapes.items()}
    there = torch_names.to_there(shapes, torch_names.ORIGINAL)
    assert len(there) == 458
    assert there["class_embed.weight"].shape == (92, 256) and there["input_proj.weight"].shape == (256, 2048, 1, 1)
    assert there["transformer.encoder.layers.0.self_attn.in_proj_weight"].shape == (768, 256)


@pytest.mark.parametrize(
    "prefix, layout", [("", "ORIGINAL"), ("detr.", "ORIGINAL"), ("", "DETECTRON2"), ("", "HUGGINGFACE"),
                       ("detr.", "HUGGINGFACE"), ("", "HUGGINGFACE_TIMM"), ("module.", "ORIGINAL")]
)  # fmt: skip
def test_layouts_are_recognised_by_content(arrays, prefix, layout, tmp_path):
    there = {prefix + key: np.ascontiguousarray(x) for key, x in torch_names.to_there(arrays, LAYOUTS[layout]).items()}
    there[f"{prefix}mask_head.lay1.weight"] = np.zeros(3, np.float32)
    save_file(there, tmp_path / "anything.bin")
    source = pretrained.read(tmp_path / "anything.bin")
    assert source.is_detector and source.unused == [f"{prefix.removeprefix('module.')}mask_head.lay1.weight"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.arrays[name], array)
    assert len(source.sha256) == 64


def test_settings_follow_from_shapes():
    for change in ({}, {"backbone": "resnet101"}, {"backbone": "resnet34"}, {"position_embedding": "learned"}):
        config = small_config(**change)
        shapes = detector.build_network(config, 17).shapes
        found = detr.settings_of({name: shape.shape for name, shape in shapes.items()})
        wanted = {key: value for key, value in config["model"].items() if key != "backbone_weights"}
        assert found == wanted | {"num_classes": 17}
    with pytest.raises(ValueError, match="no DETR of this project"):
        detr.settings_of({"backbone/conv1/kernel": (7, 7, 3, 64)})


def run_convert(**values):
    with flagsaver.flagsaver(**{name: str(value) for name, value in values.items()}):
        convert.main(["convert"])


@pytest.fixture
def parsed_flags():
    convert.flags.FLAGS.unparse_flags()
    convert.flags.FLAGS(["convert", "--source=x", "--output=y"])


def test_there_and_back_bit_for_bit(arrays, tmp_path, parsed_flags, capsys):
    tensors = {key: np.ascontiguousarray(x) for key, x in torch_names.to_there(arrays, torch_names.HUGGINGFACE).items()}
    (tmp_path / "hf").mkdir()
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    names = {str(row): f"thing {row}" for row in range(91)}
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"id2label": names, "encoder_attention_heads": 1}))
    run_convert(source=tmp_path / "hf", output=tmp_path / "ours")
    assert "530" not in capsys.readouterr().err
    run_convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")
    back = load_file(tmp_path / "again" / "model.safetensors")
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["id2label"] == names and written["encoder_attention_heads"] == 1
    with pytest.raises(UserError, match="exists already"):
        run_convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")


def test_what_other_frameworks_do_not_have_stays_here(tmp_path, parsed_flags):
    config = small_config(stride_in_1x1=True)
    info = {"config": config, "categories": Categories((1, 2), ("a", "b"))._asdict()}
    with Checkpoints(tmp_path / "ours" / "checkpoints", keep=1) as saved:
        saved.save(0, Stored(random_arrays(config, 2), {}, {}, info))
    with pytest.raises(UserError, match="stride_in_1x1"):
        run_convert(source=tmp_path / "ours", output=tmp_path / "out", to="huggingface")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind, words", [
    ("empty", "is empty"), ("html", "web page"), ("truncated", "not a whole safetensors"),
    ("text", "no file with weights"), ("pickle", "is a pickle"), ("demo", "demo notebook"),
    ("strange", "neither a DETR nor a ResNet"), ("missing key", "is missing"), ("wrong shape", "has shape"),
    ("resnet", "not a detector"), ("nowhere", "does not exist"),
])  # fmt: skip
def test_wrong_files_are_named_and_nothing_is_written(arrays, kind, words, tmp_path, parsed_flags):
    path = tmp_path / "file.pth"
    tensors = {key: np.ascontiguousarray(x) for key, x in torch_names.to_there(arrays, torch_names.ORIGINAL).items()}
    if kind == "truncated":
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "missing key":
        save_file({key: x for key, x in tensors.items() if key != "bbox_embed.layers.1.weight"}, path)
    elif kind == "wrong shape":
        save_file(tensors | {"bbox_embed.layers.1.weight": np.zeros((3, 32), np.float32)}, path)
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
        }
        path.write_bytes(content[kind])
    with pytest.raises(UserError, match=words):
        run_convert(source=path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_cannot_be_had_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"config.json.*--config.init_from the path"):
        pretrained.read("facebook/detr-resnet-50", "--config.init_from")


def test_head_rows_of_classes_with_equal_names_are_reused(arrays, tmp_path):
    source = pretrained.Source(
        tmp_path, "a test", arrays, [], {}, None, Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91))), True
    )
    categories = Categories((5, 9, 11), ("c90", "new", "c0"))
    shapes = detector.build_network(small_config(), 3).shapes
    fresh = {"class_head/kernel": np.full((32, 4), 7, np.float32), "class_head/bias": np.full(4, 7, np.float32)}
    found, report = pretrained.fit(source, shapes, fresh, categories)
    head = found["class_head/kernel"]
    theirs = arrays["class_head/kernel"]
    np.testing.assert_array_equal(head, np.stack([theirs[:, 90], np.full(32, 7), theirs[:, 0], theirs[:, -1]], axis=1))
    assert report.partly == list(pretrained.HEAD) and not report.fresh


def test_r50_gives_r101_its_transformer_and_heads(arrays, tmp_path):
    classes = Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91)))
    source = pretrained.Source(tmp_path, "a test", arrays, [], {}, None, classes, True)
    shapes = detector.build_network(small_config(backbone="resnet101"), 91).shapes
    found, report = pretrained.fit(source, shapes, {}, classes)
    rest = [name for name in shapes if not name.startswith("backbone/")]
    assert set(rest) <= found.keys() and {name.split("/")[1] for name in report.fresh} == {"layer3"}


def test_pth_needs_torch(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="pip install torch"):
        pretrained.read(tmp_path / "old.pth")
