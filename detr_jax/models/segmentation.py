"""A mask for each query (section 4.4 and figure 8 of the paper): where it looks, refined with finer features.

What is the same for all queries of an image (convolved features, adapters) is computed once; only the attention maps
and what follows from them are computed for each.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from detr_jax.ops.convolution import convolve
from detr_jax.models.layers import linear, relu
from detr_jax.models.resnet import GROUPS, GroupNorm, keep, valid_cells
from detr_jax.structures import Array

Stage = tuple[Array, Array]  # features [B h w C] and the real area of each image in them [B 2]


class AttentionMap(nnx.Module):
    """Where each query looks: weights that sum to 1 over all heads and cells together, not head by head."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        xavier = math.sqrt(6 / (2 * width))
        self.query = linear(width, width, bound=xavier, zero_bias=True, dtype=dtype, rngs=rngs)
        self.key = linear(width, width, bound=xavier, zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, queries: Float[Array, "B M D"], memory: Float[Array, "B h w D"], valid: Bool[Array, "B h w"]
    ) -> Float[Array, "B M h w A"]:
        q = self.query(queries).reshape(*queries.shape[:-1], self.heads, -1)
        k = self.key(memory).reshape(*memory.shape[:-1], self.heads, -1)
        logits = jnp.einsum("bmad,bhwad->bmhwa", q * (q.shape[-1] ** -0.5), k).astype(jnp.float32)
        logits = jnp.where(valid[:, None, :, :, None], logits, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(logits, axis=(2, 3, 4)).astype(memory.dtype)


class Conv3x3(nnx.Module):
    """A convolution with bias that sees zeros outside the real image."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        uniform = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torch's kaiming_uniform with a=1
        self.kernel = nnx.Param(uniform(rngs.params(), (3, 3, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Float[Array, "B h w C"], area: Int[Array, "B 2"]) -> Float[Array, "B h w C2"]:
        return self.without_bias(x, area, slice(None)) + self.bias[...].astype(x.dtype)[None, None, None]

    def without_bias(self, x: Float[Array, "B h w C"], area: Int[Array, "B 2"], inputs: slice):
        """The part of the result that comes from these of the input channels."""
        return convolve(keep(x, area), self.kernel[...][:, :, inputs])


def upsample(x: Float[Array, "B h w C"], height: int, width: int) -> Float[Array, "B h2 w2 C"]:
    """Each cell twice along each axis that is not yet as long as wanted; torch's nearest between ResNet's stages."""
    for axis, length in ((1, height), (2, width)):
        if x.shape[axis] != length:  # equal after a dilated stage
            x = jnp.repeat(x, 2, axis=axis)
    return x[:, :height, :width]


class MaskHead(nnx.Module):
    """Mask logits at stride 4.

    Args:
      width, heads: D and A of the legend.
      channels: of the three stages below the last, from fine to coarse.

    Raises ValueError where the group norms cannot have equal groups.
    """

    def __init__(self, width: int, heads: int, channels: Sequence[int], *, dtype, rngs: nnx.Rngs):
        self.attention = AttentionMap(width, heads, dtype=dtype, rngs=rngs)
        sizes = [width + heads, width + heads, width // 2, width // 4, width // 8, width // 16]
        if width % 16 or any(size % min(GROUPS, size) for size in sizes):
            raise ValueError(
                f"masks=True needs a hidden_dim of 16, 32, 64 or a multiple of 128 and heads in eights, not {width} "
                f"and {heads}"
            )
        for number in range(1, 6):  # the original's lay1, gn1, lay2, ...
            setattr(self, f"conv{number}", Conv3x3(sizes[number - 1], sizes[number], rngs=rngs))
            setattr(self, f"norm{number}", GroupNorm(sizes[number]))
        for number, below in enumerate(reversed(channels), start=1):
            bound = math.sqrt(3 / below)  # kaiming_uniform again
            adapter = linear(below, sizes[number + 1], bound=bound, zero_bias=True, dtype=dtype, rngs=rngs)
            setattr(self, f"adapter{number}", adapter)
        self.output = Conv3x3(sizes[-1], 1, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B M D"],
        memory: Float[Array, "B S D"],
        features: Float[Array, "B S D"],
        stages: Sequence[Stage],
    ) -> Float[Array, "B M h4 w4"]:
        """Logits for any number M of queries; outside the real image they mean nothing.

        Args:
          queries: outputs of the last decoder layer.
          memory, features: what the encoder gave and what it was given, without positions.
          stages: the features of ``ResNet.stages``.
        """
        batch, count, width = queries.shape

        def each(x):  # [B ...] -> [B*M ...]
            return jnp.repeat(x, count, axis=0)

        *below, (last, area) = stages
        _, h, w, _ = last.shape
        maps = self.attention(queries, memory.reshape(batch, h, w, width), valid_cells(area, h, w))
        maps = maps.reshape(batch * count, h, w, -1)
        # The first convolution runs over features and maps side by side; it is linear, so the features' part is shared.
        shared = self.conv1.without_bias(features.reshape(batch, h, w, width), area, slice(width))
        shared += self.conv1.bias[...].astype(shared.dtype)[None, None, None]
        x = each(shared) + self.conv1.without_bias(maps, each(area), slice(width, None))
        x = relu(self.norm1(x, each(area)))
        x = relu(self.norm2(self.conv2(x, each(area)), each(area)))
        for number, (finer, area) in enumerate(reversed(below), start=1):
            conv, norm = getattr(self, f"conv{number + 2}"), getattr(self, f"norm{number + 2}")
            adapted = getattr(self, f"adapter{number}")(finer)
            x = upsample(x, *adapted.shape[1:3]) + each(adapted)
            x = relu(norm(conv(x, each(area)), each(area)))
        x = self.output(x, each(area))
        return x.reshape(batch, count, *x.shape[1:3]).astype(jnp.float32)
