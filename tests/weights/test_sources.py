"""Published weights: the real files give their reference features, wrong files are named, folding changes nothing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import detr as configs
from detr_jax.config import ModelConfig
from detr_jax.config_forms import from_config_dict
from detr_jax.errors import UserError
from detr_jax.models.network import make_network
from detr_jax.models.resnet import ResNet, normalize
from detr_jax.structures import Categories
from detr_jax.weights import checkpoints, sources, torch_names
from detr_jax.weights.sources import Weights, load_weights
from tests.weights.small_models import random_arrays, shapes_of, small_model


class Features(nnx.Module):
    """A ResNet with the names that it has in a detector."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.backbone = ResNet(config, rngs=rngs)

    def __call__(self, images, sizes):
        return self.backbone(normalize(images, sizes, jnp.float32), sizes)[-1].values


def features(name: str, **settings):
    return make_network(lambda rngs: Features(ModelConfig(backbone=name, **settings), rngs))


def backbone(path, shapes):
    return sources.fit_backbone(load_weights(path), shapes)


SMALL = dict(backbone_width=8, last_stage="layer3")


@pytest.fixture(scope="module")
def small():
    """A narrow ResNet-18 up to layer3 and random values for it."""
    net = features("resnet18", **SMALL)
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0, 0.2, shape.shape).astype(np.float32) for name, shape in net.shapes.items()}
    return net, {name: np.abs(array) + 0.5 if name.endswith("/var") else array for name, array in values.items()}


def torchvision_name(name: str) -> str:
    """The key of a ResNet array in torchvision, written down without the project's table."""
    path, _, value = name.removeprefix("backbone/").rpartition("/")
    path = path.replace("/", ".").replace("shortcut_norm", "downsample.1").replace("shortcut", "downsample.0")
    ends = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return f"{path.replace('norm', 'bn')}.{ends[value]}"


def to_torchvision(arrays: dict) -> dict:
    return {
        torchvision_name(name): array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        for name, array in arrays.items()
    }


def folded(arrays: dict) -> dict:
    """torchvision's arrays with every batch norm folded into the convolution before it."""
    there, out = to_torchvision(arrays), {}
    for key, kernel in there.items():
        if kernel.ndim == 4:
            path = key.removesuffix(".weight")
            norm = path.replace("downsample.0", "downsample.1") if "downsample" in path else path.replace("conv", "bn")
            scale = there[f"{norm}.weight"] / np.sqrt(there[f"{norm}.running_var"] + 1e-5)
            out[key] = kernel * scale[:, None, None, None]
            out[f"{path}.bias"] = there[f"{norm}.bias"] - there[f"{norm}.running_mean"] * scale
    return out


def save(path: Path, arrays: dict) -> Path:
    np.savez(path, **arrays)
    return path


# --- Real files ---


def test_r50_reproduces_its_reference_features(real_data):
    net = features("resnet50", last_stage="layer3", stride_in_1x1=True)
    arrays, report = backbone(real_data / "weights/resnet50_c4_caffe_fp16.npz", net.shapes)
    assert arrays.keys() == net.shapes.keys() and not report.fresh
    image = Image.open(real_data / "cats/000000039769.png").convert("RGB").resize((320, 256))
    found = np.asarray(jax.jit(net.apply)(arrays, np.asarray(image)[None], np.array([[256, 320]], np.int32)))[0]
    reference = np.load(real_data / "weights/resnet50_c4_reference_features.npz")
    means, corner = reference["layer3_mean_per_channel"][0], reference["layer3_corner"]
    assert found.shape == (16, 20, 1024)
    np.testing.assert_allclose(found.mean((0, 1)), means, rtol=0, atol=1e-2 * np.abs(means).max())
    here = found[:4, :4, :8].transpose(2, 0, 1)
    np.testing.assert_allclose(here, corner, rtol=0, atol=1e-2 * np.abs(corner).max())
    assert np.linalg.norm(found.mean((0, 1)) - means) < 1e-2 * np.linalg.norm(means)
    assert np.linalg.norm(here - corner) < 1e-2 * np.linalg.norm(corner)


def test_r18_loads_completely(real_data):
    shapes = shapes_of(from_config_dict(configs.get_config("r18_c4")).model, 3)
    arrays, report = backbone(real_data / "weights/resnet18_c4_bnfolded_fp16.npz", shapes)
    assert arrays.keys() == {name for name in shapes if name.startswith("backbone/")}
    assert all(arrays[name].shape == shapes[name].shape for name in arrays)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    assert not [key for key in report.unused if not key.startswith(("backbone/layer4/", "fc."))]
    assert "loaded" in str(report)


# --- Names ---


@pytest.mark.parametrize("name, bottleneck", [("resnet18", False), ("resnet50", True)])
def test_every_array_has_exactly_one_row(name, bottleneck):
    net = features(name, backbone_width=8)
    for array in net.shapes:
        rows = [row for row in torch_names.RESNET if torch_names.translate(array, row.names[0], row.key)]
        assert len(rows) == 1, array
        key = torch_names.translate(array, rows[0].names[0], rows[0].key)
        assert key == torchvision_name(array)
        back = [row for row in torch_names.RESNET if torch_names.translate(key, row.key, row.names[0])]
        assert back == rows
        assert torch_names.names_of(key, torch_names.RESNET) == ((array,), rows[0].transform)
    assert any("conv3" in array for array in net.shapes) == bottleneck


def test_every_key_of_a_folded_backbone_has_exactly_one_row(small):
    net, arrays = small
    keys, found = folded(arrays), set()
    for key in keys:
        rows = [row for row in torch_names.RESNET_FOLDED if torch_names.translate(key, row.key, "") is not None]
        assert len(rows) == 1, key
        found |= {torch_names.translate(key, rows[0].key, name) for name in rows[0].names}
    assert found == {name for name in net.shapes if name.endswith(("/kernel", "/bias"))} and len(found) == len(keys)


@pytest.mark.parametrize(
    "key", ["fc.weight", "layer1.0.bn1.num_batches_tracked", "xconv1.weight", "layer1.0.conv1xweight"]
)
def test_other_keys_have_no_row(key):
    assert torch_names.names_of(key, torch_names.RESNET) is None


# --- Written and read ---


def test_arrays_come_back_as_they_were(small, tmp_path):
    net, arrays = small
    extra = {"fc.weight": np.ones((10, 64)), "bn1.num_batches_tracked": np.array(7)}
    found, report = backbone(save(tmp_path / "r18.npz", to_torchvision(arrays) | extra), net.shapes)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert report.loaded == sorted(arrays) and report.unused == ["fc.weight"]


def test_folded_weights_give_the_same_features(small, tmp_path):
    net, arrays = small
    found, _ = backbone(save(tmp_path / "folded.npz", folded(arrays)), net.shapes)
    image = np.random.default_rng(1).integers(0, 256, (1, 45, 38, 3), np.uint8)
    size = np.array([[45, 38]], np.int32)
    apply = jax.jit(net.apply)
    one, other = apply(arrays, image, size), apply(found, image, size)
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(other, one, atol=1e-5 * float(np.abs(one).max()))


def test_missing_key(small, tmp_path):
    net, arrays = small
    keys = to_torchvision(arrays)
    del keys["layer2.1.conv2.weight"]
    with pytest.raises(UserError, match="no values for backbone/layer2/1/conv2/kernel"):
        backbone(save(tmp_path / "part.npz", keys), net.shapes)


def test_wrong_shape(small, tmp_path):
    net, arrays = small
    keys = to_torchvision(arrays)
    keys["layer2.1.conv2.weight"] = keys["layer2.1.conv2.weight"][:3]
    with pytest.raises(UserError, match=r"backbone/layer2/1/conv2/kernel.*\(3, 3, 16, 3\).*\(3, 3, 16, 16\)"):
        backbone(save(tmp_path / "cut.npz", keys), net.shapes)


def test_another_backbone(small, tmp_path):
    path = save(tmp_path / "r18.npz", to_torchvision(small[1]))
    for other, settings in (("resnet50", SMALL), ("resnet34", SMALL), ("resnet18", {"backbone_width": 8})):
        with pytest.raises(UserError, match="model.backbone"):
            backbone(path, features(other, **settings).shapes)
    with pytest.raises(UserError, match="backbone_width"):
        backbone(path, features("resnet18", backbone_width=16, last_stage="layer3").shapes)


@pytest.mark.parametrize(
    "kind", ["no file", "folder", "empty", "html", ".npy", "truncated", "flipped byte", "objects", "two axes"]
)
def test_what_is_no_weights_file_is_named(kind, small, tmp_path):
    net, arrays = small
    path = tmp_path / "weights.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_text("<html><body>404: not found</body></html>")
    elif kind == ".npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif kind in ("truncated", "flipped byte"):
        content = bytearray(save(path, to_torchvision(arrays)).read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else content)
    elif kind == "objects":
        save(path, {"conv1.weight": np.array([None, {}], dtype=object)})
    elif kind == "two axes":
        save(path, to_torchvision(arrays) | {"conv1.weight": np.ones((8, 147), np.float32)})
    with pytest.raises(UserError, match="weights.npz"):
        backbone(path, net.shapes)


# --- init_from ---


def test_what_fits_of_another_checkpoint_is_read(tmp_path):
    def shape(*axes):
        return jax.ShapeDtypeStruct(axes, jnp.float32)

    model = {"a/kernel": jnp.full((2, 3), 1.0), "b/kernel": jnp.full((4,), 2.0), "c/kernel": jnp.full((5,), 3.0)}
    info = {"config": {}, "categories": [{"id": 3, "name": "cat"}]}
    cats, no_head = Categories((3,), ("cat",)), {}

    def fitting(path, wanted):
        return sources.fit_detector(load_weights(path), wanted, no_head, cats)

    for folder, averaged in (("plain", {}), ("averaged", {"a/kernel": jnp.full((2, 3), 9.0)})):
        with checkpoints.Checkpoints(tmp_path / folder / "checkpoints", keep=1) as saved:
            saved.save(3, checkpoints.Stored(model, averaged, {"step": jnp.int32(3)}, info))
        wanted = {"a/kernel": shape(2, 3), "b/kernel": shape(6), "d/kernel": shape(1)}
        found, report = fitting(tmp_path / folder, wanted)
        assert found.keys() == {"a/kernel"}
        np.testing.assert_array_equal(found["a/kernel"], np.full((2, 3), 9.0 if averaged else 1.0))
        assert report == sources.Report(["a/kernel"], [], ["b/kernel", "d/kernel"], ["b/kernel", "c/kernel"])
        for word in ("loaded", "re-initialised", "unused"):
            assert word in str(report)
    with pytest.raises(UserError, match="nothing in .* fits"):
        fitting(tmp_path / "plain", {"z": shape(1)})
    with pytest.raises(UserError, match="does not exist"):
        fitting(tmp_path / "nowhere", {"z": shape(1)})


# --- detectors ---


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(small_model(), 91)


def test_settings_follow_from_shapes():
    for change in (
        {},
        {"masks": True, "heads": 8},
        {"backbone": "resnet101"},
        {"backbone": "resnet34"},
        {"position_embedding": "learned"},
    ):
        model = small_model(**change)
        shapes = {name: shape.shape for name, shape in shapes_of(model, 17).items()}
        assert sources.model_config_of(shapes) == (model, 17)
    for lost in ("query_positions", "class_head/kernel", "backbone/conv1/kernel"):
        with pytest.raises(ValueError, match=f"{lost} is missing"):
            sources.model_config_of({name: shape for name, shape in shapes.items() if name != lost})
    with pytest.raises(ValueError, match="blocks"):
        sources.model_config_of({"backbone/conv1/kernel": (7, 7, 3, 64)})


def test_a_name_that_cannot_be_had_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sources.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"config.json.*model.safetensors and pass --config.init_from"):
        load_weights("facebook/detr-resnet-50", "--config.init_from")


def test_head_rows_of_classes_with_equal_names_are_reused(arrays, tmp_path):
    classes = Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91)))
    weights = Weights(path=tmp_path, title="a test", arrays=arrays, categories=classes)
    categories = Categories((5, 9, 11), ("c90", "new", "c0"))
    shapes = shapes_of(small_model(), 3)
    fresh = {"class_head/kernel": np.full((32, 4), 7, np.float32), "class_head/bias": np.full(4, 7, np.float32)}
    found, report = sources.fit_detector(weights, shapes, fresh, categories)
    head = found["class_head/kernel"]
    theirs = arrays["class_head/kernel"]
    np.testing.assert_array_equal(head, np.stack([theirs[:, 90], np.full(32, 7), theirs[:, 0], theirs[:, -1]], axis=1))
    assert report.partly == list(sources.HEAD) and not report.fresh


def test_r50_gives_r101_its_transformer_and_heads(arrays, tmp_path):
    classes = Categories(tuple(range(91)), tuple(f"c{i}" for i in range(91)))
    weights = Weights(path=tmp_path, title="a test", arrays=arrays, categories=classes)
    shapes = shapes_of(small_model(backbone="resnet101"), 91)
    found, report = sources.fit_detector(weights, shapes, {}, classes)
    rest = [name for name in shapes if not name.startswith("backbone/")]
    assert set(rest) <= found.keys() and {name.split("/")[1] for name in report.fresh} == {"layer3"}


def of_classes(arrays: dict, classes: Categories) -> Weights:
    return Weights(path=Path("a test"), title="a test", arrays=arrays, categories=classes)


@pytest.mark.parametrize("more", [0, 1], ids=["sigmoid", "softmax"])
def test_rows_of_equal_classes_in_every_array_that_has_them(more):
    """Sigmoid heads have no row for no object, and the last class is not taken for one."""
    rng = np.random.default_rng(0)
    old, new = Categories((1, 2, 3), ("cat", "dog", "cow")), Categories((7, 8), ("cow", "emu"))
    names = ("class_head/kernel", "anchor_decoder/source/class_head/kernel")
    theirs = {name: rng.normal(size=(4, 3 + more)).astype(np.float32) for name in names}
    theirs[sources.LABELS] = rng.normal(size=(3, 4)).astype(np.float32)
    fresh = {name: np.full((4, 2 + more), 7, np.float32) for name in names}
    fresh[sources.LABELS] = np.full((2, 4), 7, np.float32)
    found, report = sources.fit_detector(of_classes(theirs, old), jax.eval_shape(lambda: fresh), fresh, new)
    assert set(report.partly) == fresh.keys() and not report.fresh
    for name in names:
        wanted = np.full((4, 2 + more), 7, np.float32)
        wanted[:, 0] = theirs[name][:, 2]
        if more:
            wanted[:, -1] = theirs[name][:, -1]
        np.testing.assert_array_equal(found[name], wanted)
    np.testing.assert_array_equal(found[sources.LABELS], [theirs[sources.LABELS][2], [7] * 4])


def test_softmax_rows_are_not_taken_for_sigmoid_rows():
    theirs = {"class_head/kernel": np.ones((4, 3), np.float32), "box_head/layers/0/bias": np.ones(4, np.float32)}
    fresh = {"class_head/kernel": np.zeros((4, 2), np.float32), "box_head/layers/0/bias": np.zeros(4, np.float32)}
    weights = of_classes(theirs, Categories((1, 2), ("dog", "emu")))
    _, report = sources.fit_detector(weights, jax.eval_shape(lambda: fresh), fresh, Categories((1, 2), ("cat", "dog")))
    assert report.fresh == ["class_head/kernel"] and report.loaded == ["box_head/layers/0/bias"]
