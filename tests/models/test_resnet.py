"""The backbone: pixels, stem and blocks against loops, strides and dilations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.config import ModelConfig
from detr_jax.models import resnet
from tests.models.networks import randomise
from tests.ops.slow import slow_conv, slow_max_pool


def test_pixels_are_normalised_as_in_torchvision():
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 3), np.uint8)
    found = np.asarray(resnet.normalize(image, np.array([[2, 3]], np.int32), jnp.float32))[0]
    for row, column, color in np.ndindex(3, 4, 3):
        wanted = (
            (image[0, row, column, color] / 255 - resnet.MEAN[color]) / resnet.STD[color]
            if row < 2 and column < 3
            else 0.0
        )
        np.testing.assert_allclose(found[row, column, color], wanted, atol=1e-5)


@pytest.mark.parametrize("height, width", [(24, 37), (33, 30)])
def test_stem_equals_a_loop(height, width):
    net = resnet.ResNet(ModelConfig(backbone="resnet10", backbone_width=8, last_stage="layer1"), rngs=nnx.Rngs(0))
    net.layer1[0].conv2.kernel[...] *= 0  # the only block becomes the identity
    rng = np.random.default_rng(0)
    mean, bias = rng.normal(size=(2, 8))
    var, scale = rng.uniform(0.5, 1.5, (2, 8))
    for name, values in dict(mean=mean, bias=bias, var=var, scale=scale).items():
        getattr(net.norm1, name)[...] = jnp.asarray(values, jnp.float32)
    image = rng.normal(size=(1, height, width, 3)).astype(np.float32)
    ((found, extent),) = net(jnp.asarray(image), jnp.array([[height, width]]))
    x = slow_conv(image[0], np.asarray(net.conv1.kernel[...], np.float64), 2)
    x = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    wanted = slow_max_pool(np.maximum(x, 0))
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    assert tuple(extent[0]) == wanted.shape[:2]


def backbone(name="resnet50", **changes) -> resnet.ResNet:
    config = ModelConfig(backbone=name, backbone_width=8, **changes)
    return nnx.eval_shape(lambda: resnet.ResNet(config, rngs=nnx.Rngs(0)))


def map_shape(net: resnet.ResNet, height: int, width: int) -> tuple[int, ...]:
    graph, state = nnx.split(net)
    inputs = jnp.zeros((1, height, width, 3)), jnp.array([[height, width]])
    return jax.eval_shape(lambda state, *inputs: nnx.merge(graph, state)(*inputs)[-1].values, state, *inputs).shape


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
    block = resnet.Bottleneck(
        8, 32, ModelConfig(stride_in_1x1=stride_in_1x1), stride=2, dilation=1, kind=nnx.Param, rngs=nnx.Rngs(0)
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 10, 8)), jnp.float32)
    extent = jnp.array([[8, 10]])
    out, out_extent = block(x, extent)
    other = block(x.at[:, 1::2].add(1.0).at[:, :, 1::2].add(1.0), extent)[0]
    assert out.shape == (1, 4, 5, 32) and tuple(out_extent[0]) == (4, 5)
    assert np.allclose(out, other) == stride_in_1x1


def slow_norm(x, arrays, name):
    normal = (x - arrays[f"{name}/mean"]) / np.sqrt(arrays[f"{name}/var"] + 1e-5)
    return normal * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


@pytest.mark.parametrize("kind", [resnet.BasicBlock, resnet.Bottleneck])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_block_equals_a_loop(kind, stride, dilation):
    """On an image that fills only a corner of its map."""
    block = kind(8, 8, ModelConfig(), stride=stride, dilation=dilation, kind=nnx.Param, rngs=nnx.Rngs(0))
    arrays = randomise(block)
    for name in arrays:
        if name.endswith("/var"):
            arrays[name] = np.abs(arrays[name]) + 0.5
            getattr(block, name.partition("/")[0]).var[...] = jnp.asarray(arrays[name], jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, 8, 10, 8)).astype(np.float32)
    h, w = 7, 5
    found, extent = block(jnp.asarray(x), jnp.array([[h, w]]))

    def conv_norm(x, number, stride, dilation):
        return slow_norm(slow_conv(x, arrays[f"conv{number}/kernel"], stride, dilation), arrays, f"norm{number}")

    real = x[0, :h, :w].astype(np.float64)
    if kind is resnet.BasicBlock:
        y = conv_norm(np.maximum(conv_norm(real, 1, stride, dilation), 0), 2, 1, dilation)
    else:
        y = conv_norm(np.maximum(conv_norm(real, 1, 1, 1), 0), 2, stride, dilation)
        y = conv_norm(np.maximum(y, 0), 3, 1, 1)
    if stride > 1:
        real = slow_norm(slow_conv(real, arrays["shortcut/kernel"], stride), arrays, "shortcut_norm")
    wanted = np.maximum(real + y, 0)
    assert tuple(extent[0]) == wanted.shape[:2] and (block.shortcut is None) == (stride == 1)
    np.testing.assert_allclose(found[0, : wanted.shape[0], : wanted.shape[1]], wanted, atol=1e-4)
