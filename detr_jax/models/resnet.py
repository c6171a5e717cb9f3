"""ResNet v1.5 (He et al. 2015) as DETR's backbone: frozen batch norm, an optional dilated last stage, inert padding."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int, UInt8

from detr_jax.config import ARCHITECTURES, STAGES, ModelConfig
from detr_jax.models.layers import NORMS, Conv, Frozen, apply_layer, conv_then_norm
from detr_jax.models.padding import clear_padding, shrink
from detr_jax.ops.pool import max_pool
from detr_jax.ops.relu import relu, relu_of_sum
from detr_jax.structures import Array

# Mean and standard deviation of ImageNet's colours, as in torchvision.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class FeatureMap(NamedTuple):
    """The output of one stage."""

    values: Float[Array, "B h w C"]
    extent: Int[Array, "B 2"]  # real (height, width) of each image, in cells


def normalize(pixels: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], dtype) -> Float[Array, "B H W 3"]:
    """Pixels with ImageNet's mean at 0 and its deviation at 1; zero outside the image."""
    scale = jnp.asarray([1 / (255 * deviation) for deviation in STD], jnp.float32)
    shift = jnp.asarray([-mean / deviation for mean, deviation in zip(MEAN, STD, strict=True)], jnp.float32)
    normal = pixels.astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
    return clear_padding(normal, sizes).astype(dtype)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut: the residual block of ResNet-18 and 34."""

    expansion = 1

    def __init__(self, channels_in, channels_out, config: ModelConfig, *, stride, dilation, kind, rngs: nnx.Rngs):
        conv, norm = partial(Conv, kind=kind, rngs=rngs), NORMS[config.norm]
        self.conv1 = conv(channels_in, channels_out, 3, stride, dilation)
        self.norm1 = norm(channels_out)
        self.conv2 = conv(channels_out, channels_out, 3, 1, dilation)
        self.norm2 = norm(channels_out)
        reshapes = stride > 1 or channels_in != channels_out
        self.shortcut = conv(channels_in, channels_out, 1, stride) if reshapes else None
        self.shortcut_norm = norm(channels_out) if reshapes else None

    def __call__(self, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]):
        """The block's output and its extent."""
        out = shrink(extent, self.conv1.stride)
        y = conv_then_norm(self.conv1, self.norm1, clear_padding(x, extent), out)
        y = relu(
            clear_padding(y, out)
        )  # in this order: then the ReLU's result is the one array kept for both gradients
        y = conv_then_norm(self.conv2, self.norm2, y, out)
        if self.shortcut is not None:
            x = conv_then_norm(self.shortcut, self.shortcut_norm, x, out)
        return relu_of_sum(x, y), out


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: the residual block of ResNet-50 and 101.

    The stride sits in the 3x3 convolution (v1.5), or with ``stride_in_1x1`` in the first one.
    """

    expansion = 4

    def __init__(self, channels_in, channels_out, config: ModelConfig, *, stride, dilation, kind, rngs: nnx.Rngs):
        conv, norm = partial(Conv, kind=kind, rngs=rngs), NORMS[config.norm]
        width = channels_out // self.expansion
        stride1, stride2 = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = conv(channels_in, width, 1, stride1)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3, stride2, dilation)
        self.norm2 = norm(width)
        self.conv3 = conv(width, channels_out, 1)
        self.norm3 = norm(channels_out)
        reshapes = stride > 1 or channels_in != channels_out
        self.shortcut = conv(channels_in, channels_out, 1, stride) if reshapes else None
        self.shortcut_norm = norm(channels_out) if reshapes else None

    def __call__(self, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]):
        """The block's output and its extent."""
        middle = shrink(extent, self.conv1.stride)
        out = shrink(middle, self.conv2.stride)
        y = conv_then_norm(self.conv1, self.norm1, x, middle)
        y = relu(clear_padding(y, middle))  # in this order, as above
        y = relu(conv_then_norm(self.conv2, self.norm2, y, out))
        y = conv_then_norm(self.conv3, self.norm3, y, out)
        if self.shortcut is not None:
            x = conv_then_norm(self.shortcut, self.shortcut_norm, x, out)
        return relu_of_sum(x, y), out


class ResNet(nnx.Module):
    """The backbone up to ``config.last_stage``.

    With frozen batch norm the stem and layer1 are not trained, as in the original.

    Attributes:
      strides, widths: pixels per cell and channels of layer1, layer2, ...
      stride, channels: those of the last stage.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False, rngs: nnx.Rngs):
        depths, bottleneck, self.small_stem = ARCHITECTURES[config.backbone]
        make_block = Bottleneck if bottleneck else BasicBlock
        width = config.backbone_width
        self.remat = remat
        first_kind = Frozen if config.norm == "frozen_batch" else nnx.Param
        if self.small_stem:
            self.conv0 = Conv(3, width // 2, 3, 2, kind=first_kind, rngs=rngs)
            self.conv1 = Conv(width // 2, width, 3, 2, kind=first_kind, rngs=rngs)
        else:
            self.conv1 = Conv(3, width, 7, 2, kind=first_kind, rngs=rngs)
        self.norm1 = NORMS[config.norm](width)

        self.depth = int(config.last_stage.removeprefix("layer"))
        self.strides, self.widths = [], []
        channels, total_stride = width, 4
        for stage in range(1, self.depth + 1):
            dilated = config.dilation and stage == self.depth
            stride = 1 if stage == 1 or dilated else 2
            kind = first_kind if stage == 1 else nnx.Param
            channels_out = width * 2 ** (stage - 1) * make_block.expansion
            blocks = []
            for index in range(depths[stage - 1]):
                dilation = 2 if dilated and index > 0 else 1  # torchvision dilates only after the first block
                blocks.append(
                    make_block(channels, channels_out, config, stride=stride, dilation=dilation, kind=kind, rngs=rngs)
                )
                channels, stride = channels_out, 1
            setattr(self, f"layer{stage}", nnx.List(blocks))
            total_stride *= 1 if stage == 1 or dilated else 2
            self.strides.append(total_stride)
            self.widths.append(channels)
        self.stride, self.channels = self.strides[-1], self.widths[-1]

    def __call__(self, x: Float[Array, "B H W 3"], sizes: Int[Array, "B 2"]) -> list[FeatureMap | None]:
        """The feature maps of layer1, layer2, ... of normalised pixels."""
        extent = sizes
        if self.small_stem:  # two 3x3 convolutions
            x, extent = relu(self.conv0(clear_padding(x, extent))), shrink(extent, 2)
        x, extent = clear_padding(x, extent), shrink(extent, 2)
        x = relu(conv_then_norm(self.conv1, self.norm1, x, extent))
        if not self.small_stem:
            x, extent = max_pool(clear_padding(x, extent)), shrink(extent, 2)
        return self._run_stages(x, extent, 0)

    def resume(
        self, features: Float[Array, "B h w C"], sizes: Int[Array, "B 2"], stage: int
    ) -> list[FeatureMap | None]:
        """The same from the features of a stage on (1: layer1, ...); None for the stages before it."""
        extent = shrink(sizes, self.strides[stage - 1])
        maps = [None] * (stage - 1) + [FeatureMap(features, extent)]
        return maps + self._run_stages(features, extent, stage)

    def _run_stages(self, x, extent, done: int) -> list[FeatureMap]:
        """The maps of the stages after the first ``done``."""
        maps = []
        for stage, name in enumerate(STAGES[: self.depth], start=1):
            if stage > done:
                for block in getattr(self, name):
                    x, extent = apply_layer(block, x, extent, remat=self.remat and stage > 1)
                maps.append(FeatureMap(x, extent))
        return maps
