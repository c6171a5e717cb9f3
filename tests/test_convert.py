"""Weights in and out: every layout covers every array once, round trips are bit-equal, wrong files are named."""

import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from configs import detr as configs
from detr_jax import convert, cli
from detr_jax.inference import detector
from detr_jax.models import detr
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights import foreign, sources, torch_names
from detr_jax.weights.checkpoints import Checkpoints, Stored

LAYOUTS = {
    "ORIGINAL": torch_names.ORIGINAL,
    "DETECTRON2": torch_names.DETECTRON2,
    "HUGGINGFACE": torch_names.HUGGINGFACE,
    "HUGGINGFACE_TIMM": torch_names.HUGGINGFACE_TIMM,
}
PANOPTIC = {
    "ORIGINAL": torch_names.panoptic(torch_names.ORIGINAL),
    "DETECTRON2": torch_names.DETECTRON2_PANOPTIC,
    "HUGGINGFACE": torch_names.panoptic(torch_names.HUGGINGFACE),
    "HUGGINGFACE_TIMM": torch_names.panoptic(torch_names.HUGGINGFACE_TIMM),
}
SMALL = {
    "backbone_width": 8, "hidden_dim": 32, "heads": 1, "encoder_layers": 2, "decoder_layers": 2, "feed_forward_dim": 48,
    "num_queries": 7,
}  # fmt: skip


def small_config(**changes) -> dict:
    config = cli.plain(configs.get_config("r50"))
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


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A safetensors file, whose writer wants contiguous arrays and says nothing when they are not."""
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, path)
    return path


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The same names, and every array equal to the last bit."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(small_config(), 91)


@pytest.mark.parametrize(
    "variant", [{}, {"position_embedding": "learned"}, {"pre_norm": True}, {"backbone": "resnet18"},
                {"masks": True, "heads": 8}]
)  # fmt: skip
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_and_key_has_exactly_one_row_and_comes_back(layout, variant):
    table = (PANOPTIC if "masks" in variant else LAYOUTS)[layout]
    arrays = random_arrays(small_config(**variant), 5)
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


def test_packed_attention_is_query_key_value(arrays):
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
    config = cli.plain(configs.get_config(word))
    config["model"] |= changes
    shapes = detector.build_network(config, 250 if changes else 91).shapes
    arrays = {name: np.zeros(shape.shape, np.int8) for name, shape in shapes.items()}
    there = torch_names.to_there(arrays, (PANOPTIC if changes else LAYOUTS)["ORIGINAL"])
    assert len(there) == len(wanted) == count
    assert {key: tensor.shape for key, tensor in there.items()} == wanted


@pytest.mark.parametrize(
    "prefix, layout", [("", "ORIGINAL"), ("detr.", "ORIGINAL"), ("", "DETECTRON2"), ("", "HUGGINGFACE"),
                       ("detr.", "HUGGINGFACE"), ("", "HUGGINGFACE_TIMM"), ("module.", "ORIGINAL")]
)  # fmt: skip
def test_layouts_are_recognised_by_content(arrays, prefix, layout, tmp_path):
    there = {prefix + key: x for key, x in torch_names.to_there(arrays, LAYOUTS[layout]).items()}
    there |= {f"{prefix}criterion.empty_weight": np.zeros(3, np.float32)}
    there |= {key.replace("running_var", "num_batches_tracked"): np.zeros((), int) for key in there if "var" in key}
    source = sources.read(write(tmp_path / "anything.bin", there))
    assert source.is_detector and source.unused == [f"{prefix.removeprefix('module.')}criterion.empty_weight"]
    assert_equal(source.arrays, arrays)
    assert len(source.sha256) == 64


@pytest.mark.parametrize("layout", PANOPTIC)
def test_mask_models_are_recognised_with_their_heads_and_classes(layout, tmp_path):
    arrays = random_arrays(small_config(masks=True, heads=8), 250)
    source = sources.read(write(tmp_path / "anything.bin", torch_names.to_there(arrays, PANOPTIC[layout])))
    assert not source.unused
    assert_equal(source.arrays, arrays)
    _, categories, config = detector.of_source(source)
    assert config["model"]["masks"] and config["model"]["heads"] == 8
    named = dict(zip(*categories, strict=True))
    assert [named[row] for row in (1, 90, 92, 200)] == ["person", "toothbrush", "banner", "rug-merged"]
    assert named[12] == "class 12" and len(named) == 250


def test_settings_follow_from_shapes():
    for change in (
        {},
        {"masks": True, "heads": 8},
        {"backbone": "resnet101"},
        {"backbone": "resnet34"},
        {"position_embedding": "learned"},
    ):
        config = small_config(**change)
        shapes = detector.build_network(config, 17).shapes
        found = detr.settings_of({name: shape.shape for name, shape in shapes.items()})
        wanted = {key: value for key, value in config["model"].items() if key != "backbone_weights"}
        assert found == wanted | {"num_classes": 17}
    with pytest.raises(ValueError, match="no DETR of this project"):
        detr.settings_of({"backbone/conv1/kernel": (7, 7, 3, 64)})


def run_convert(**values):
    with flagsaver.flagsaver(
        **{name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    ):
        convert.main(["convert"])


@pytest.fixture
def parsed_flags():
    convert.flags.FLAGS.unparse_flags()
    convert.flags.FLAGS(["convert", "--source=x", "--output=y"])


@pytest.mark.parametrize("backbone, dilation, masks", [
    ("native", False, False), ("native", True, False), ("native", False, True), ("timm", False, False),
    ("timm", True, True),
])  # fmt: skip
def test_there_and_back_bit_for_bit(backbone, dilation, masks, tmp_path, parsed_flags, capsys):
    """A Hugging Face file comes back with its own keys, by way of a checkpoint and directly."""
    table = torch_names.panoptic(foreign.HUGGINGFACE[backbone]) if masks else foreign.HUGGINGFACE[backbone]
    config = small_config(masks=masks, heads=8, backbone="resnet18")
    tensors = torch_names.to_there(random_arrays(config, 5), table)
    (tmp_path / "hf").mkdir()
    write(tmp_path / "hf" / "model.safetensors", tensors)
    names = {str(row): f"thing {row}" for row in range(5)}
    config = {"id2label": names, "encoder_attention_heads": 8, "dilation": dilation}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    run_convert(source=tmp_path / "hf", output=tmp_path / "ours")
    run_convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")
    said = capsys.readouterr().out
    assert ("no dilation" in said) == (dilation and backbone == "native")
    run_convert(source=tmp_path / "hf", output=tmp_path / "direct", to="huggingface")
    for folder in ("again", "direct"):
        assert_equal(load_file(tmp_path / folder / "model.safetensors"), tensors)
        written = json.loads((tmp_path / folder / "config.json").read_text())
        assert written.items() >= config.items()
        assert written["architectures"] == ["DetrForSegmentation" if masks else "DetrForObjectDetection"]
        assert written["use_timm_backbone"] == (backbone == "timm")
    assert sources.read(tmp_path / "again").known["dilation"] == dilation
    with pytest.raises(UserError, match="exists already"):
        run_convert(source=tmp_path / "ours", output=tmp_path / "again", to="huggingface")


def test_without_a_record_dc5_gets_timm_keys_and_the_flag_overrules_the_source(arrays, tmp_path, parsed_flags):
    source = write(tmp_path / "original.pth", torch_names.to_there(arrays, torch_names.ORIGINAL))
    for word, changes in (("native", {}), ("timm", {"dilation": True})):
        run_convert(source=source, output=tmp_path / word, to="huggingface", **changes)
        found = load_file(tmp_path / word / "model.safetensors")
        assert found.keys() == torch_names.to_there(arrays, foreign.HUGGINGFACE[word]).keys()
    run_convert(source=source, output=tmp_path / "ours")
    run_convert(source=tmp_path / "ours", output=tmp_path / "ours_dc5", dilation=True)
    assert sources.read(tmp_path / "ours_dc5").config["model"]["dilation"]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_stored_as_float32(arrays, precision, tmp_path):
    rounded = {name: array.astype(precision) for name, array in arrays.items()}
    source = sources.read(write(tmp_path / "half", torch_names.to_there(rounded, torch_names.ORIGINAL)))
    assert {array.dtype for array in source.arrays.values()} == {np.dtype(np.float32)}
    assert_equal(source.arrays, {name: array.astype(np.float32) for name, array in rounded.items()})


def test_what_other_frameworks_do_not_have_stays_here(tmp_path, parsed_flags):
    config = small_config(stride_in_1x1=True)
    info = {"config": config, "categories": Categories((1, 2), ("a", "b"))._asdict()}
    with Checkpoints(tmp_path / "ours" / "checkpoints", keep=1) as saved:
        saved.save(0, Stored(random_arrays(config, 2), {}, {}, info))
    with pytest.raises(UserError, match="stride_in_1x1"):
        run_convert(source=tmp_path / "ours", output=tmp_path / "out", to="official")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind, words", [
    ("empty", "is empty"), ("html", "web page"), ("truncated", "not a whole safetensors"),
    ("text", "no file with weights"), ("pickle", "is a pickle"), ("demo", "demo notebook"),
    ("strange", "neither a DETR nor a ResNet"), ("missing key", "is missing"), ("wrong shape", "has shape"),
    ("resnet", "not a detector"), ("nowhere", "does not exist"), ("onnx", "an ONNX model"), ("lfs", "Git LFS"),
    ("no axes", "bbox_embed.layers.1.weight has shape"), ("classes", "names 2 classes"), ("config", "not the config"),
    ("gelu", "activation_function=gelu"), ("two heads", "decoder_attention_heads=2"),
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
        run_convert(source=path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_cannot_be_had_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sources.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"config.json.*--config.init_from the path"):
        sources.read("facebook/detr-resnet-50", "--config.init_from")


def test_head_rows_of_classes_with_equal_names_are_reused(arrays, tmp_path):
    source = sources.Source(
        tmp_path, "a test", arrays, [], {}, None, Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91))), True
    )
    categories = Categories((5, 9, 11), ("c90", "new", "c0"))
    shapes = detector.build_network(small_config(), 3).shapes
    fresh = {"class_head/kernel": np.full((32, 4), 7, np.float32), "class_head/bias": np.full(4, 7, np.float32)}
    found, report = sources.fit(source, shapes, fresh, categories)
    head = found["class_head/kernel"]
    theirs = arrays["class_head/kernel"]
    np.testing.assert_array_equal(head, np.stack([theirs[:, 90], np.full(32, 7), theirs[:, 0], theirs[:, -1]], axis=1))
    assert report.partly == list(sources.HEAD) and not report.fresh


@pytest.mark.parametrize("rows, row_of_dog", [(80, 16), (91, 18), (250, 18), (7, None)])
def test_published_heads_are_known_by_their_rows(rows, row_of_dog, tmp_path):
    """COCO's id of dog is 18, and it is the 17th of the 80 classes."""
    random = np.random.default_rng(0)
    head = {"class_head/kernel": random.normal(size=(4, rows + 1)), "class_head/bias": random.normal(size=rows + 1)}
    source = sources.Source(tmp_path, "a test", head, [], {}, None, None, True)
    source = source._replace(categories=detector.known_classes(source))
    fresh = {"class_head/kernel": np.full((4, 3), 7.0), "class_head/bias": np.full(3, 7.0)}
    shapes = {name: jax.ShapeDtypeStruct(array.shape, np.float32) for name, array in fresh.items()}
    categories = Categories((1, 2), ("dog", "unicorn"))
    if row_of_dog is None:
        with pytest.raises(UserError, match="nothing in"):
            sources.fit(source, shapes, fresh, categories)
        return
    found, report = sources.fit(source, shapes, fresh, categories)
    theirs = head["class_head/bias"]
    np.testing.assert_array_equal(found["class_head/bias"], [theirs[row_of_dog], 7.0, theirs[-1]])
    assert report.partly == list(sources.HEAD)


def test_r50_gives_r101_its_transformer_and_heads(arrays, tmp_path):
    classes = Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91)))
    source = sources.Source(tmp_path, "a test", arrays, [], {}, None, classes, True)
    shapes = detector.build_network(small_config(backbone="resnet101"), 91).shapes
    found, report = sources.fit(source, shapes, {}, classes)
    rest = [name for name in shapes if not name.startswith("backbone/")]
    assert set(rest) <= found.keys() and {name.split("/")[1] for name in report.fresh} == {"layer3"}


def test_pth_needs_torch(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="pip install torch"):
        sources.read(tmp_path / "old.pth")
