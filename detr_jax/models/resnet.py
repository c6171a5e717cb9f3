"""ResNet v1.5 (He et al. 2015) as DETR's backbone: frozen batch norm, an optional dilated last stage, inert padding.

An image lies in the top left corner of a larger canvas. ``area`` is its real (height, width) at the resolution of the
feature map beside it; ``keep`` zeroes everything outside before each convolution wider than 1x1 and before the pool,
which is exactly the zero padding that the image alone would see. So padding is inert: the canvas does not matter.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Bool, Float, Int

from detr_jax.ops.convolution import Conv
from detr_jax.models.layers import relu, relu_of_sum, run
from detr_jax.structures import Array

GROUPS = 8  # of the group norm, where there are as many channels
STAGES = ("layer1", "layer2", "layer3", "layer4")


class Architecture(NamedTuple):
    """Blocks per stage, and whether they are bottlenecks (1x1, 3x3, 1x1) or pairs of 3x3 convolutions.

    A ``small_stem`` is two 3x3 convolutions with a stride of 2 instead of a 7x7 one and a pool.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    small_stem: bool = False


ARCHITECTURES = {
    "resnet10": Architecture((1, 1, 1, 1), bottleneck=False),  # for small sets trained from scratch
    "resnet10_small": Architecture((1, 1, 1, 1), bottleneck=False, small_stem=True),  # and from small images
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
}


class Frozen(nnx.Variable):
    """A value of the model that is never trained: batch norm, and what lies below the first trained stage."""


def halved(area: Int[Array, "B 2"]) -> Int[Array, "B 2"]:
    """The area after a stride of 2, rounded up as convolutions with symmetric padding do."""
    return (area + 1) >> 1  # not // 2, which XLA makes of ten operations, and again wherever an area is used


def areas(sizes: Int[Array, "B 2"], stride: int) -> Int[Array, "B 2"]:
    """The areas in a feature map of this stride, a power of 2."""
    for _ in range(stride.bit_length() - 1):
        sizes = halved(sizes)
    return sizes


def valid_cells(area: Int[Array, "B 2"], h: int, w: int) -> Bool[Array, "B h w"]:
    """True on the cells of an h x w map that belong to the real image."""
    rows = jnp.arange(h)[None, :, None] < area[:, 0, None, None]
    columns = jnp.arange(w)[None, None, :] < area[:, 1, None, None]
    return rows & columns


def keep(x: Float[Array, "B h w C"], area: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
    """``x`` on the real image, zero outside."""
    return x * valid_cells(area, x.shape[1], x.shape[2])[..., None].astype(x.dtype)


def max_pool(x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 C"]:
    """The largest of 3x3 cells, with a stride of 2, of values that are not negative.

    As maxima of shifted arrays: the gradient of XLA's window reduction is five times slower on a CPU.
    """
    # Zeros outside are as good as the usual -inf: nothing is smaller.
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows = jnp.maximum(jnp.maximum(x[:, :-2:2], x[:, 1:-1:2]), x[:, 2::2])
    return jnp.maximum(jnp.maximum(rows[:, :, :-2:2], rows[:, :, 1:-1:2]), rows[:, :, 2::2])


class FrozenBatchNorm(nnx.Module):
    """Batch norm with fixed statistics and affine values: a scale and a shift, computed in float32.

    The convolution takes the scale: ``convolve`` knows where it costs least.
    """

    def __init__(self, channels: int):
        self.scale = Frozen(jnp.ones(channels))
        self.bias = Frozen(jnp.zeros(channels))
        self.mean = Frozen(jnp.zeros(channels))
        self.var = Frozen(jnp.ones(channels))

    def after(self, conv: Conv, x: Float[Array, "B h w C"], area: Int[Array, "B 2"]) -> Float[Array, "B h2 w2 C2"]:
        """The norm of what ``conv`` makes of ``x``."""
        scale = self.scale[...] * lax.rsqrt(self.var[...] + 1e-5)
        shift = self.bias[...] - self.mean[...] * scale
        return conv(x, scale) + shift.astype(x.dtype)[None, None, None]


class GroupNorm(nnx.Module):
    """Group norm over the real image only, in float32 (Wu & He 2018): mask heads, backbones trained from scratch."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def after(self, conv: Conv, x: Float[Array, "B h w C"], area: Int[Array, "B 2"]) -> Float[Array, "B h2 w2 C2"]:
        """The norm of what ``conv`` makes of ``x``; ``area`` is that of the result."""
        return self(conv(x), area)

    def __call__(self, x: Float[Array, "B h w C"], area: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
        """The norm of ``x``."""
        batch, h, w, channels = x.shape
        groups = min(GROUPS, channels)
        # Sums over cells first and over the channels of a group last: twice as fast as a five-dimensional reduction.
        cells = x.astype(jnp.float32).reshape(batch, h * w, channels)
        valid = valid_cells(area, h, w).reshape(batch, h * w)[..., None]
        count = jnp.maximum(jnp.sum(valid, axis=1) * (channels // groups), 1)  # [B 1]

        def mean_of_group(values):  # [B S C] -> [B 1 C]
            sums = jnp.sum(values, axis=1, where=valid).reshape(batch, groups, -1).sum(axis=-1)
            return jnp.repeat(sums / count, channels // groups, axis=1)[:, None]

        centered = cells - mean_of_group(cells)
        normal = (centered * lax.rsqrt(mean_of_group(jnp.square(centered)) + 1e-5)).reshape(x.shape)
        return (normal * self.scale[...][None, None, None] + self.bias[...][None, None, None]).astype(x.dtype)


NORMS = {"frozen_batch": FrozenBatchNorm, "group": GroupNorm}


class Block(nnx.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1."""

    def __init__(
        self, channels_in, width, *, bottleneck, stride, dilation, stride_in_1x1, norm, kind, rngs
    ):  # fmt: skip
        channels_out = width * 4 if bottleneck else width
        if bottleneck:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            layers = [(channels_in, width, 1, first, 1), (width, width, 3, second, dilation),
                      (width, channels_out, 1, 1, 1)]  # fmt: skip
        else:
            layers = [(channels_in, width, 3, stride, dilation), (width, width, 3, 1, dilation)]
        self.depth = len(layers)
        for number, layer in enumerate(layers, start=1):  # conv1, norm1, conv2, ...: torchvision's names
            setattr(self, f"conv{number}", Conv(*layer, kind=kind, rngs=rngs))
            setattr(self, f"norm{number}", NORMS[norm](layer[1]))
        reshaped = stride > 1 or channels_in != channels_out
        self.shortcut = Conv(channels_in, channels_out, 1, stride, kind=kind, rngs=rngs) if reshaped else None
        self.shortcut_norm = NORMS[norm](channels_out) if reshaped else None

    def __call__(self, x: Float[Array, "B h w C"], area: Int[Array, "B 2"]):
        """The block's output and its area."""
        y, y_area = x, area
        for number in range(1, self.depth + 1):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"norm{number}")
            if conv.kernel.shape[0] > 1:
                y = keep(y, y_area)  # before the ReLU, whose result is then the one array kept for both gradients
            if number > 1:
                y = relu(y)
            if conv.stride > 1:
                y_area = halved(y_area)
            y = norm.after(conv, y, y_area)
        if self.shortcut is not None:
            x = self.shortcut_norm.after(self.shortcut, x, y_area)
        return relu_of_sum(x, y), y_area


class ResNet(nnx.Module):
    """The backbone up to ``last_stage``.

    Args:
      name: a key of ``ARCHITECTURES``.
      width: channels of the stem (64 in every published ResNet).
      last_stage: 'layer4', or 'layer3' for a C4 backbone (stride 16).
      dilation: the last stage keeps its stride at 1 and dilates instead (DC5 of the paper).
      stride_in_1x1: the stride of a bottleneck sits in its first 1x1 convolution (Caffe and Keras weights).
      norm: 'frozen_batch' for pretrained weights (the stem and layer1 are frozen too, as in the original),
        'group' to train everything from scratch.
    """

    def __init__(
        self, name: str, *, width: int = 64, last_stage: str = "layer4", dilation: bool = False,
        stride_in_1x1: bool = False, norm: str = "frozen_batch", remat: bool = False, rngs: nnx.Rngs
    ):  # fmt: skip
        depths, bottleneck, self.small_stem = ARCHITECTURES[name]
        self.remat = remat
        below = Frozen if norm == "frozen_batch" else nnx.Param
        if self.small_stem:
            self.conv0 = Conv(3, width // 2, 3, 2, kind=below, rngs=rngs)
            self.conv1 = Conv(width // 2, width, 3, 2, kind=below, rngs=rngs)
        else:
            self.conv1 = Conv(3, width, 7, 2, kind=below, rngs=rngs)
        self.norm1 = NORMS[norm](width)
        self.depth = int(last_stage.removeprefix("layer"))
        self.stride = 4
        self.strides, self.channels_of = [], []  # of layer1, layer2, ...
        channels = width
        for stage in range(1, self.depth + 1):
            dilated = dilation and stage == self.depth
            stride = 1 if stage == 1 or dilated else 2
            blocks = []
            for index in range(depths[stage - 1]):
                blocks.append(
                    Block(
                        channels,
                        width * 2 ** (stage - 1),
                        bottleneck=bottleneck,
                        stride=stride if index == 0 else 1,
                        dilation=2 if dilated and index > 0 else 1,  # torchvision dilates only after the first block
                        stride_in_1x1=stride_in_1x1,
                        norm=norm,
                        kind=below if stage == 1 else nnx.Param,
                        rngs=rngs,
                    )  # fmt: skip
                )
                channels = width * 2 ** (stage - 1) * (4 if bottleneck else 1)
            self.stride *= stride
            self.strides.append(self.stride)
            self.channels_of.append(channels)
            setattr(self, f"layer{stage}", nnx.List(blocks))
        self.channels = channels

    def _stem(self, images, sizes):
        x, area = images, sizes
        if self.small_stem:
            x, area = relu(self.conv0(keep(x, area))), halved(area)
        x, area = keep(x, area), halved(area)
        x = relu(self.norm1.after(self.conv1, x, area))
        return (x, area) if self.small_stem else (max_pool(keep(x, area)), halved(area))

    def stages(self, images: Float[Array, "B H W C"], sizes: Int[Array, "B 2"], below: int = 0) -> list:
        """(features, real area of each image in them) of layer1, layer2, ...

        With ``below``, ``images`` are the features of that stage already, and the stages before it are None.
        """
        if below:
            x, area = images, areas(sizes, self.strides[below - 1])
            features = [None] * (below - 1) + [(x, area)]
        else:
            x, area = self._stem(images, sizes)
            features = []
        for stage in range(below + 1, self.depth + 1):
            for block in getattr(self, f"layer{stage}"):
                x, area = run(block, x, area, remat=self.remat and stage > 1)
            features.append((x, area))
        return features

    def __call__(
        self, images: Float[Array, "B H W 3"], sizes: Int[Array, "B 2"]
    ) -> tuple[Float[Array, "B h w C"], Int[Array, "B 2"]]:
        """Features of the last stage, and the real area of each image in them."""
        return self.stages(images, sizes)[-1]
