"""The model: published parameter counts, padding that does not matter, and each part against a slow loop."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import detr as configs
from detr_jax.inference import detector
from detr_jax import cli
from detr_jax.ops import attention, convolution
from detr_jax.models import layers, position_encoding, resnet, transformer
from detr_jax.models.network import Keys
from detr_jax.ops.resample import MEAN, STD, normalize

SMALL = dict(
    backbone_width=8, hidden_dim=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward_dim=64, num_queries=7
)


@functools.cache
def network(words: str = "r50", classes: int = 91, dtype: str = "float32", **model):
    config = configs.get_config(words)
    config.model.update(model)
    config.dtype = dtype
    return detector.build_network(cli.plain(config), classes)


# Half the time to compile; the numbers are the same.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def fill(net, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every array, none of them 0 or 1, so that nothing passes because a norm does nothing."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in net.shapes.items():
        if name.endswith(("/var", "/scale")):
            # Small in the backbone: or 16 residual blocks make numbers, and their rounding errors, 100 times larger.
            values = rng.uniform(0.5, 1.5, shape.shape) * (0.5 if "/scale" in name and "backbone" in name else 1)
        elif name.endswith(("/mean", "/bias")):
            values = rng.normal(0, 0.3, shape.shape)
        elif name.endswith("/kernel"):
            values = rng.normal(0, math.sqrt(1.5 / np.prod(shape.shape[:-1])), shape.shape)
        else:
            values = rng.normal(0, 1, shape.shape)
        arrays[name] = values.astype(np.float32)
    return arrays


# --- Parameter counts, by shapes alone ---


def count(net, start: str = "", frozen: bool = False, suffix: str = "") -> int:
    return sum(
        math.prod(shape.shape)
        for name, shape in net.shapes.items()
        if name.startswith(start) and name.endswith(suffix) and (name in net.frozen) == frozen
    )


@pytest.mark.parametrize(
    "words, trained",
    [
        ("r50", 41_302_368),  # the original's log.txt says so
        pytest.param("r50_dc5", 41_302_368, marks=pytest.mark.slow),
        ("r101", 60_242_272),
        pytest.param("r101_dc5", 60_242_272, marks=pytest.mark.slow),
        # Convolutions of layer2 and layer3 + projection + 3 encoder layers + 3 decoder layers and a norm + queries +
        # class head + box head, written out:
        ("r18_c4", 2_621_440 + 32_896 + 3 * 198_272 + 3 * 264_576 + 256 + 12_800 + 11_868 + 33_540),
        # All convolutions and group norms of a ResNet-10 + the same with one and two layers of width 32.
        ("debug", 308_016 + 1_440 + 4_128 + 8_544 + 2 * 12_832 + 64 + 3_200 + 3_036 + 2_244),
    ],
)
def test_trained_parameters(words, trained):
    assert count(network(words)) == trained


def test_parts_of_the_r50():
    net = network()
    assert count(net) + count(net, frozen=True, suffix="/kernel") == 41_524_768
    assert count(net, "backbone/", frozen=True) - count(net, "backbone/", frozen=True, suffix="/kernel") == 4 * 26_560
    assert count(net, "transformer/encoder") == 7_890_432
    assert count(net, "transformer/decoder") == 9_473_024
    assert count(network(classes=250)) == 41_302_368 + 40_863
    assert all(shape.dtype == jnp.float32 for shape in net.shapes.values())


def test_frozen_is_batch_norm_and_all_below_layer2():
    net = network()
    for name in net.shapes:
        frozen = re.match(r"backbone/(conv1|norm1|layer1)/", name) or ("backbone/" in name and "norm" in name)
        assert (name in net.frozen) == bool(frozen), name
    assert not network("debug").frozen  # group norm: everything is trained


# --- Padding ---


def place(image: np.ndarray, canvas: tuple[int, int], garbage: np.random.Generator) -> np.ndarray:
    """The image in the top left corner of a canvas of noise."""
    full = garbage.integers(0, 256, (*canvas, 3), np.uint8)
    full[: image.shape[0], : image.shape[1]] = image
    return full


INERT = {
    "r50": dict(),
    "r50_dc5": dict(dilation=True),
    "r18_c4": dict(backbone="resnet18", last_stage="layer3"),
    "group norm, Caffe strides": dict(norm="group", stride_in_1x1=True, last_stage="layer3"),
}


@pytest.mark.parametrize("name", INERT)
def test_an_image_alone_and_in_a_larger_batch_and_canvas(name):
    net = network(**SMALL, **INERT[name])
    arrays, apply = fill(net), jit(net.apply)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (61, 87, 3), np.uint8)
    alone = apply(arrays, image[None], np.array([[61, 87]], np.int32))
    assert np.ptp(alone.boxes) > 0.05  # not a constant
    others = [rng.integers(0, 256, size, np.uint8) for size in ((96, 33, 3), (5, 128, 3))]
    for position in (0, 2):
        images = [*others[:position], image, *others[position:]]
        batch = np.stack([place(one, (96, 128), rng) for one in images])
        sizes = np.array([one.shape[:2] for one in images], np.int32)
        together = apply(arrays, batch, sizes)
        np.testing.assert_allclose(together.logits[:, position], alone.logits[:, 0], atol=1e-5)
        np.testing.assert_allclose(together.boxes[:, position], alone.boxes[:, 0], atol=1e-5)


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
SIZES = np.array([[30, 41], [32, 48]], np.int32)


@pytest.fixture(scope="module")
def small():
    net = network(backbone="resnet10", last_stage="layer3", **SMALL)
    return net, fill(net), jit(net.apply)


def test_an_empty_row_is_finite_and_changes_nothing(small):
    net, arrays, apply = small
    full = apply(arrays, IMAGES, SIZES)
    half = apply(arrays, IMAGES, np.array([SIZES[0], [0, 0]], np.int32))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(half))
    np.testing.assert_allclose(half.logits[:, 0], full.logits[:, 0], atol=1e-5)


def test_shapes_and_ranges(small):
    net, arrays, apply = small
    found = apply(arrays, IMAGES, SIZES)
    assert found.logits.shape == (2, 2, 7, 92) and found.boxes.shape == (2, 2, 7, 4)
    assert found.boxes.min() > 0 and found.boxes.max() < 1


def test_dropout_only_with_a_key_and_the_same_with_the_same_key(small):
    net, arrays, apply = small
    inputs = IMAGES, SIZES
    without = apply(arrays, *inputs)
    first, again, second = (apply(arrays, *inputs, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert np.abs(first.logits - second.logits).max() > 1e-3
    assert np.abs(first.logits - without.logits).max() > 1e-3
    np.testing.assert_array_equal(apply(arrays, *inputs).logits, without.logits)
    assert np.ptp(first.logits[0, 0], axis=0).max() > 1e-3  # each query has its own mask


def test_bfloat16_computes_coarsely_and_answers_in_float32(small):
    _, arrays, apply = small
    net = network(backbone="resnet10", last_stage="layer3", dtype="bfloat16", **SMALL)
    found, exact = jit(net.apply)(arrays, IMAGES, SIZES), apply(arrays, IMAGES, SIZES)
    assert found.logits.dtype == found.boxes.dtype == jnp.float32
    difference = np.abs(found.logits - exact.logits).max()
    assert 1e-4 < difference < 0.3
    assert all(shape.dtype == jnp.float32 for shape in net.shapes.values())


def test_pixels_are_normalised_as_in_torchvision():
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 3), np.uint8)
    found = np.asarray(normalize(image, np.array([[2, 3]], np.int32), jnp.float32))[0]
    for row, column, color in np.ndindex(3, 4, 3):
        wanted = (image[0, row, column, color] / 255 - MEAN[color]) / STD[color] if row < 2 and column < 3 else 0.0
        np.testing.assert_allclose(found[row, column, color], wanted, atol=1e-5)


# --- Backbone ---


def slow_conv(x, kernel, stride: int, dilation: int = 1) -> np.ndarray:
    """[H W C] with zeros around, one output cell at a time."""
    size = kernel.shape[0]
    margin = dilation * (size // 2)
    reach = dilation * (size - 1) + 1
    x = np.pad(np.asarray(x, np.float64), [(margin, margin)] * 2 + [(0, 0)])
    h, w = ((length - reach) // stride + 1 for length in x.shape[:2])
    out = np.zeros((h, w, kernel.shape[3]))
    for row, column in np.ndindex(h, w):
        y0, x0 = row * stride, column * stride
        window = x[y0 : y0 + reach : dilation, x0 : x0 + reach : dilation]
        out[row, column] = np.einsum("ijc,ijcd->d", window, kernel)
    return out


def slow_max_pool(x) -> np.ndarray:
    """3x3, stride 2, one cell of -inf around."""
    x = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    h, w = ((length - 3) // 2 + 1 for length in x.shape[:2])
    return np.array([[x[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((0, 1)) for c in range(w)] for r in range(h)])


@pytest.mark.parametrize("size, stride, dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)])
def test_convolution_equals_a_loop_on_an_even_and_an_odd_size(size, stride, dilation):
    conv = convolution.Conv(3, 5, size, stride, dilation, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 12, 15, 3)).astype(np.float32)
    wanted = slow_conv(x[0], np.asarray(conv.kernel[...], np.float64), stride, dilation)
    np.testing.assert_allclose(conv(jnp.asarray(x))[0], wanted, atol=1e-4)


@pytest.mark.parametrize("size, stride, dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)])
@pytest.mark.parametrize("channels", [(5, 3), (2, 6)])  # the product's wider side on the left and on the right
@pytest.mark.parametrize("platform", ["cpu", "default"])  # what a CPU does, and what a GPU and a TPU do
@pytest.mark.parametrize("is_scaled", [False, True])
def test_gradients_of_a_convolution_are_those_of_the_compiler(
    size, stride, dilation, channels, platform, is_scaled, monkeypatch
):
    choose = lambda *arguments, **ways: ways[platform](*arguments)  # noqa: E731
    monkeypatch.setattr(convolution.lax, "platform_dependent", choose)
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(2, 9, 12, channels[0])), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, *channels)), jnp.float32)
    powers = rng.choice([-1.0, 0.5, -0.25, 1.0], channels[1])  # of 2: they round nothing
    scale = jnp.asarray(powers, jnp.float32) if is_scaled else None

    def compilers(x, kernel):
        margin = dilation * (size // 2)
        result = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(margin, margin)] * 2, rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return result if scale is None else result * scale[None, None, None]

    wanted, pull = jax.vjp(compilers, x, kernel)
    found, pull_ours = jax.vjp(lambda x, kernel: convolution.convolve(x, kernel, scale, stride, dilation), x, kernel)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=wanted.shape), jnp.float32)
    for ours, theirs in zip(pull_ours(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_dropout_is_as_random_as_a_generator():
    """Counts of what is kept, alone and in pairs, against the binomial's own spread."""
    ones, rate = jnp.ones((64, 128, 256)), 0.1
    keys = [jax.random.fold_in(jax.random.key(7, impl="rbg"), number) for number in range(3)]
    masks = [np.asarray(attention.dropout(ones, rate, key)) for key in keys]
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.9], rtol=1e-6)
    kept = [mask > 0 for mask in masks]

    def check(events, probability):
        spread = math.sqrt(probability * (1 - probability) / events.size)
        assert abs(events.mean() - probability) < 5 * spread, (events.mean(), probability)

    for mask in kept:
        check(mask, 0.9)
        for axis in range(3):  # neighbours along every axis, and everything along it
            near, far = np.split(mask, 2, axis=axis)
            check(near & far, 0.81)
            shifted = np.take(mask, range(1, mask.shape[axis]), axis), np.take(mask, range(mask.shape[axis] - 1), axis)
            check(shifted[0] & shifted[1], 0.81)
            rest = tuple(other for other in range(3) if other != axis)
            by_index, count = mask.mean(axis=rest), mask.size // mask.shape[axis]
            assert np.abs(by_index - 0.9).max() < 5.5 * math.sqrt(0.09 / count)
    check(kept[0] & kept[1], 0.81)
    check(kept[1] & kept[2], 0.81)
    # A shift of one key's bits would be another key's.
    flat = [mask.ravel() for mask in kept]
    for shift in (1, 2, 255, 256, 257, 4096):
        check(flat[0][shift:] & flat[1][:-shift], 0.81)


@pytest.mark.parametrize("height, width", [(24, 37), (33, 30)])
def test_stem_equals_a_loop(height, width):
    net = resnet.ResNet("resnet10", width=8, last_stage="layer1", rngs=nnx.Rngs(0))
    net.layer1[0].conv2.kernel[...] *= 0  # the only block becomes the identity
    rng = np.random.default_rng(0)
    mean, bias = rng.normal(size=(2, 8))
    var, scale = rng.uniform(0.5, 1.5, (2, 8))
    for name, values in dict(mean=mean, bias=bias, var=var, scale=scale).items():
        getattr(net.norm1, name)[...] = jnp.asarray(values, jnp.float32)
    image = rng.normal(size=(1, height, width, 3)).astype(np.float32)
    found, area = net(jnp.asarray(image), jnp.array([[height, width]]))
    x = slow_conv(image[0], np.asarray(net.conv1.kernel[...], np.float64), 2)
    x = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    wanted = slow_max_pool(np.maximum(x, 0))
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    assert tuple(area[0]) == wanted.shape[:2]


def backbone(name="resnet50", **settings) -> resnet.ResNet:
    return nnx.eval_shape(lambda: resnet.ResNet(name, width=8, rngs=nnx.Rngs(0), **settings))


def map_shape(net: resnet.ResNet, height: int, width: int) -> tuple[int, ...]:
    graph, state = nnx.split(net)
    inputs = jnp.zeros((1, height, width, 3)), jnp.array([[height, width]])
    return jax.eval_shape(lambda state, *inputs: nnx.merge(graph, state)(*inputs)[0], state, *inputs).shape


def test_strides_and_dilations_of_dc5():
    plain, dc5 = backbone(), backbone(dilation=True)
    assert plain.stride == 32 and map_shape(plain, 97, 65) == (1, 4, 3, 256)
    assert dc5.stride == 16 and map_shape(dc5, 97, 65) == (1, 7, 5, 256)
    assert [block.conv2.dilation for block in dc5.layer4] == [1, 2, 2]
    assert all(block.conv2.stride == 1 for block in dc5.layer4) and dc5.layer4[0].shortcut.stride == 1
    assert all(block.conv2.dilation == 1 for stage in (dc5.layer1, dc5.layer2, dc5.layer3) for block in stage)
    c4 = backbone("resnet18", last_stage="layer3")
    assert c4.stride == 16 and map_shape(c4, 97, 65) == (1, 7, 5, 32)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_where_the_stride_sits(stride_in_1x1):
    # A 1x1 convolution of stride 2 never sees the odd rows and columns; a 3x3 one does.
    block = resnet.Block(
        8, 8, bottleneck=True, stride=2, dilation=1, stride_in_1x1=stride_in_1x1, norm="frozen_batch",
        kind=nnx.Param, rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 10, 8)), jnp.float32)
    area = jnp.array([[8, 10]])
    out, out_area = block(x, area)
    other = block(x.at[:, 1::2].add(1.0).at[:, :, 1::2].add(1.0), area)[0]
    assert out.shape == (1, 4, 5, 32) and tuple(out_area[0]) == (4, 5)
    assert np.allclose(out, other) == stride_in_1x1


# --- Positions ---


def test_sine_positions_equal_a_loop():
    areas, h, w, width = [(5, 7), (3, 9), (6, 1)], 6, 9, 16
    found = np.asarray(position_encoding.sine_positions(jnp.array(areas), h, w, width))
    for image, row, column in np.ndindex(3, h, w):
        inside = np.zeros((h, w))
        inside[: areas[image][0], : areas[image][1]] = 1
        down, right = inside.cumsum(0), inside.cumsum(1)
        for channel in range(width):
            half, feature = divmod(channel, width // 2)  # first y, then x
            if half == 0:
                angle = down[row, column] / (down[-1, column] + 1e-6) * 2 * math.pi
            else:
                angle = right[row, column] / (right[row, -1] + 1e-6) * 2 * math.pi
            angle /= 10000 ** (2 * (feature // 2) / (width // 2))
            wanted = math.cos(angle) if feature % 2 else math.sin(angle)
            if inside[row, column]:
                np.testing.assert_allclose(found[image, row, column, channel], wanted, atol=1e-5)
    assert np.isfinite(found).all()


def test_learned_positions_put_the_column_first_and_end_at_50_cells():
    positions = position_encoding.LearnedPositions(8, nnx.Rngs(0))
    found = positions(jnp.array([[3, 4], [1, 1]]), 3, 50)
    assert found.shape == (2, 3, 50, 8)
    for row, column in np.ndindex(3, 50):
        wanted = np.concatenate([positions.columns[...][column], positions.rows[...][row]])
        np.testing.assert_array_equal(found[1, row, column], wanted)
    with pytest.raises(ValueError, match="50 cells"):
        positions(jnp.array([[3, 4]]), 51, 4)
    with pytest.raises(ValueError, match="50 cells"):
        positions(jnp.array([[3, 4]]), 4, 51)


# --- Transformer: detr.md's figure, written out for one image in float64 ---


def slow_linear(x, arrays, name):
    return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def slow_norm(x, arrays, name):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def slow_attention(q, k, v, arrays, name, heads: int) -> np.ndarray:
    q, k, v = (slow_linear(x, arrays, f"{name}{part}") for x, part in ((q, "query"), (k, "key"), (v, "value")))
    size = q.shape[1] // heads
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(q)):
            weights = np.exp([q[row, part] @ other / math.sqrt(size) for other in k[:, part]])
            out[row, part] = (weights / weights.sum()) @ v[:, part]
    return slow_linear(out, arrays, f"{name}out")


def slow_transformer(arrays, x, positions, queries, heads, layers, pre_norm):
    """Only the valid cells are given. Returns the output of every decoder layer."""

    def around(x, layer, number, sublayer):
        norm = f"{layer}/residuals/{number}/norm"
        if pre_norm:
            return x + sublayer(slow_norm(x, arrays, norm))
        return slow_norm(x + sublayer(x), arrays, norm)

    def feed_forward(layer):
        def apply(x):
            hidden = np.maximum(slow_linear(x, arrays, f"{layer}/feed_forward/linear1"), 0)
            return slow_linear(hidden, arrays, f"{layer}/feed_forward/linear2")

        return apply

    def attend(layer, kind, *qkv):
        return slow_attention(*qkv, arrays, f"{layer}/{kind}/", heads)

    for number in range(layers):
        layer = f"encoder/{number}"
        x = around(x, layer, 0, lambda y, at=layer: attend(at, "self_attention", y + positions, y + positions, y))
        x = around(x, layer, 1, feed_forward(layer))
    memory = slow_norm(x, arrays, "encoder_norm") if pre_norm else x
    out, outputs = np.zeros_like(queries), []
    for number in range(layers):
        layer = f"decoder/{number}"
        out = around(out, layer, 0, lambda y, at=layer: attend(at, "self_attention", y + queries, y + queries, y))
        out = around(
            out, layer, 1, lambda y, at=layer: attend(at, "cross_attention", y + queries, memory + positions, memory)
        )
        out = around(out, layer, 2, feed_forward(layer))
        outputs.append(slow_norm(out, arrays, "decoder_norm"))
    return np.stack(outputs)


def randomised(module: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives every array of the module random values; returns them in float64."""
    rng, arrays = np.random.default_rng(seed), {}
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        values = rng.normal(0, 0.3, leaf.shape).astype(np.float32) + (path[-1] == "scale")
        leaf[...] = jnp.asarray(values, jnp.float32)
        arrays["/".join(map(str, path))] = np.asarray(leaf[...], np.float64)
    return arrays


@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer_equals_loops_with_masked_cells(pre_norm):
    width, heads, layers = 16, 4, 2
    module = transformer.Transformer(
        width, heads, 24, layers, layers, dropout_rate=0.1, pre_norm=pre_norm, rngs=nnx.Rngs(0)
    )
    arrays = randomised(module)
    rng = np.random.default_rng(1)
    x, positions = rng.normal(size=(2, 2, 9, width)).astype(np.float32)
    queries = rng.normal(size=(2, 5, width)).astype(np.float32)
    valid = np.array([[1, 1, 0, 1, 1, 0, 0, 1, 1], [1] * 9], bool)
    memory = module.encode(x, positions, valid)
    found = module.decode(np.zeros_like(queries), queries, transformer.Memory(memory, positions, valid, None))
    for image in range(2):
        cells = valid[image]
        wanted = slow_transformer(
            arrays, x[image, cells].astype(np.float64), positions[image, cells], queries[image].astype(np.float64),
            heads, layers, pre_norm,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, image], wanted, atol=2e-4)


@pytest.mark.parametrize("bias_shape", [None, (2, 1, 1, 7), (1, 3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_gradients_of_attention_are_those_of_its_formula(bias_shape, rate):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 3, n, 4)), jnp.float32) for n in (5, 7, 7))
    bias = None if bias_shape is None else jnp.asarray(rng.normal(size=bias_shape), jnp.float32)
    key = jax.random.key(3, impl="rbg")

    def formula(q, k, v, bias):
        logits = jnp.einsum("baqd,basd->baqs", q, k)
        weights = jax.nn.softmax(logits if bias is None else logits + bias)
        return jnp.einsum("baqs,basd->baqd", attention.dropout(weights, rate, key), v)

    wanted, pull = jax.vjp(formula, q, k, v, bias)
    found, pull_ours = jax.vjp(lambda *inputs: attention.attend(*inputs, key, rate), q, k, v, bias)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    cotangent = jnp.asarray(rng.normal(size=wanted.shape), jnp.float32)
    ours, theirs = pull_ours(cotangent), pull(cotangent)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=5e-6), ours, theirs)


def test_attention_without_any_valid_key_is_finite():
    layer = attention.Attention(8, 2, 0.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    valid = jnp.array([[True, False, True], [False, False, False]])

    def summed(x):
        return jnp.sum(layer(x, x, x, valid))

    value, gradient = jax.value_and_grad(summed)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_attention_among_the_queries_is_that_with_them_as_keys():
    layer = attention.Attention(8, 2, 0.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.key.bias[...] = jnp.arange(8.0)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 8)), jnp.float32)
    np.testing.assert_allclose(layer(x, None, y), layer(x, x, y), atol=1e-6)


# --- Linear layers and layer norm ---


def values_and_gradients(layer: nnx.Module, x, cotangent):
    """What a layer makes of ``x``, and the gradients of ``x`` and of its arrays."""
    graph, arrays = nnx.split(layer)
    made, pull = jax.vjp(lambda x, arrays: nnx.merge(graph, arrays)(x), x, arrays)
    of_x, of_arrays = pull(cotangent.astype(made.dtype))
    return made, of_x, *(leaf[...] for _, leaf in sorted(nnx.to_flat_state(of_arrays)))


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 2e-5), (jnp.bfloat16, 0.04)])
@pytest.mark.parametrize("kind", ["linear", "layer norm"])
def test_layers_and_their_gradients_are_those_of_flax(kind, dtype, bound):
    """Flax in float32 is the reference for both types."""
    rng = np.random.default_rng(0)
    if kind == "linear":
        make = [functools.partial(of, 6, 5) for of in (layers.Linear, nnx.Linear)]
    else:
        make = [functools.partial(of, 6, epsilon=1e-5) for of in (layers.LayerNorm, nnx.LayerNorm)]
    ours, flax = (of(dtype=wanted, rngs=nnx.Rngs(0)) for of, wanted in zip(make, (dtype, jnp.float32), strict=True))
    if kind == "layer norm":
        scale, bias = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
        for layer in (ours, flax):
            layer.scale[...], layer.bias[...] = scale, bias
    x = jnp.asarray(3 + 2 * rng.normal(size=(2, 3, 4, 6)), dtype)
    cotangent = jnp.asarray(rng.normal(size=(2, 3, 4, 5 if kind == "linear" else 6)), dtype)
    found = values_and_gradients(ours, x, cotangent)
    assert found[0].dtype == found[1].dtype == dtype and all(leaf.dtype == jnp.float32 for leaf in found[2:])
    wanted = values_and_gradients(flax, x.astype(jnp.float32), cotangent.astype(jnp.float32))
    for value, reference in zip(found, wanted, strict=True):
        scale = np.abs(np.asarray(reference)).max()
        np.testing.assert_allclose(value.astype(jnp.float32), reference, atol=bound * scale)


def test_together_is_each_alone():
    first, second = (layers.linear(6, 5, dtype=jnp.float32, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)
    for found, layer in zip(layers.together(x, first, second), (first, second), strict=True):
        np.testing.assert_allclose(found, layer(x), atol=1e-6)


# --- Initialisation ---

XAVIER = {"packed": math.sqrt(6 / (4 * 128)), "out": math.sqrt(6 / (2 * 128)), "ffn": math.sqrt(6 / (128 + 512))}
UNIFORM = [  # (name, bound): uniform in +-bound
    (r"transformer/.*_attention/(query|key|value)/kernel", XAVIER["packed"]),
    (r"transformer/.*_attention/out/kernel", XAVIER["out"]),
    (r"transformer/.*/linear[12]/kernel", XAVIER["ffn"]),
    (r"transformer/.*/linear1/bias", 128**-0.5),
    (r"transformer/.*/linear2/bias", 512**-0.5),
    (r"input_projection/.*", 256**-0.5),
    (r"(class_head|box_head/.*)/(kernel|bias)", 128**-0.5),
]
CONSTANT = [
    (r"transformer/.*_attention/.*/bias", 0.0),
    (r".*norm/scale", 1.0),
    (r".*norm/bias", 0.0),
    (r"backbone/.*norm\d?/(scale|var)", 1.0),
    (r"backbone/.*norm\d?/(bias|mean)", 0.0),
]


def test_keys_are_those_of_nnx():
    ours, theirs = Keys(jax.random.key(5)), nnx.Rngs(params=jax.random.key(5))
    for _ in range(3):
        np.testing.assert_array_equal(jax.random.key_data(ours.params()), jax.random.key_data(theirs.params()))


def test_initialisation_of_every_array():
    net = network("r18_c4", backbone="resnet10", encoder_layers=2, decoder_layers=1, position_embedding="learned")
    init = jit(net.init)
    arrays = {name: np.asarray(values) for name, values in init(jax.random.key(0, impl="rbg")).items()}  # compiles fast
    assert arrays.keys() == net.shapes.keys()
    for name, values in arrays.items():
        assert values.shape == net.shapes[name].shape and values.dtype == np.float32, name
        constants = [value for pattern, value in CONSTANT if re.fullmatch(pattern, name)]
        bounds = [bound for pattern, bound in UNIFORM if re.fullmatch(pattern, name)]
        if constants:
            np.testing.assert_array_equal(values, constants[0], err_msg=name)
        elif bounds:
            assert np.abs(values).max() <= bounds[0], name
            if values.size > 100:
                assert np.abs(values).max() > 0.9 * bounds[0], name
                np.testing.assert_allclose(values.std(), bounds[0] / math.sqrt(3), rtol=0.15, err_msg=name)
        elif name.startswith("positions/"):
            assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.03, name
        elif name == "query_positions":
            np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=0.03)
        else:  # He et al. 2015 over the fan out, normal
            size, _, _, channels = values.shape
            assert re.fullmatch(r"backbone/.*(conv\d|shortcut)/kernel", name), name
            np.testing.assert_allclose(values.std(), math.sqrt(2 / (size * size * channels)), rtol=0.05, err_msg=name)
            assert abs(values.mean()) < 0.1 * values.std()
    kernels = [values for name, values in arrays.items() if re.search(r"encoder/\d/feed_forward/linear1/kernel", name)]
    assert not np.array_equal(kernels[0], kernels[1])  # each array draws for itself
    other = init(jax.random.key(1, impl="rbg"))
    assert not np.array_equal(other["class_head/kernel"], arrays["class_head/kernel"])
