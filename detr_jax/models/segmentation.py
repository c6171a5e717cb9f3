"""A mask for each query (section 4.4 and figure 8 of the paper): an attention map, refined with finer features.

What all queries of an image share (convolved features, adapters) is computed once; only the attention maps and what
follows from them are computed for each query.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from detr_jax.models.layers import GroupNorm, Linear
from detr_jax.models.padding import clear_padding, valid_cells
from detr_jax.models.resnet import FeatureMap
from detr_jax.ops.convolution import convolve
from detr_jax.ops.relu import relu
from detr_jax.structures import Array


class AttentionMap(nnx.Module):
    """Where each query looks: weights that sum to 1 over all heads and cells together, not head by head."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        xavier = math.sqrt(6 / (2 * width))
        self.query = Linear(width, width, bound=xavier, zero_bias=True, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, bound=xavier, zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, queries: Float[Array, "B M D"], memory: Float[Array, "B h w D"], valid: Bool[Array, "B h w"]
    ) -> Float[Array, "B M h w A"]:
        q = self.query(queries).reshape(*queries.shape[:-1], self.heads, -1)
        k = self.key(memory).reshape(*memory.shape[:-1], self.heads, -1)
        logits = jnp.einsum("bmad,bhwad->bmhwa", q * (q.shape[-1] ** -0.5), k).astype(jnp.float32)
        logits = jnp.where(valid[:, None, :, :, None], logits, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(logits, axis=(2, 3, 4)).astype(memory.dtype)


class BiasedConv(nnx.Module):
    """A 3x3 convolution with bias that sees zeros outside the image."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        uniform = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torch's kaiming_uniform with a=1
        self.kernel = nnx.Param(uniform(rngs.params(), (3, 3, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]) -> Float[Array, "B h w C2"]:
        return self.convolve_part(x, extent, slice(None)) + self.bias[...].astype(x.dtype)[None, None, None]

    def convolve_part(
        self, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"], inputs: slice
    ) -> Float[Array, "B h w C2"]:
        """The part of the result that comes from the input channels ``inputs``, without the bias."""
        return convolve(clear_padding(x, extent), self.kernel[...][:, :, inputs])


def upsample(x: Float[Array, "B h w C"], height: int, width: int) -> Float[Array, "B h2 w2 C"]:
    """Repeats each cell along the axes that are shorter than wanted: torch's nearest, between a ResNet's stages."""
    for axis, length in ((1, height), (2, width)):
        if x.shape[axis] != length:  # equal after a dilated stage
            x = jnp.repeat(x, 2, axis=axis)
    return x[:, :height, :width]


class MaskHead(nnx.Module):
    """Mask logits at stride 4.

    Args:
      width, heads: D and A of the legend.
      channels: of layer1, layer2 and layer3.
    """

    def __init__(self, width: int, heads: int, channels: Sequence[int], *, dtype, rngs: nnx.Rngs):
        def adapter(channels_in, channels_out):
            bound = math.sqrt(3 / channels_in)  # kaiming_uniform again
            return Linear(channels_in, channels_out, bound=bound, zero_bias=True, dtype=dtype, rngs=rngs)

        layer1, layer2, layer3 = channels
        self.attention = AttentionMap(width, heads, dtype=dtype, rngs=rngs)
        self.conv1 = BiasedConv(width + heads, width + heads, rngs=rngs)
        self.norm1 = GroupNorm(width + heads)
        self.conv2 = BiasedConv(width + heads, width // 2, rngs=rngs)
        self.norm2 = GroupNorm(width // 2)
        self.conv3 = BiasedConv(width // 2, width // 4, rngs=rngs)
        self.norm3 = GroupNorm(width // 4)
        self.conv4 = BiasedConv(width // 4, width // 8, rngs=rngs)
        self.norm4 = GroupNorm(width // 8)
        self.conv5 = BiasedConv(width // 8, width // 16, rngs=rngs)
        self.norm5 = GroupNorm(width // 16)
        self.adapter1 = adapter(layer3, width // 2)
        self.adapter2 = adapter(layer2, width // 4)
        self.adapter3 = adapter(layer1, width // 8)
        self.output = BiasedConv(width // 16, 1, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B M D"],
        memory: Float[Array, "B S D"],
        features: Float[Array, "B S D"],
        maps: Sequence[FeatureMap],
    ) -> Float[Array, "B M h4 w4"]:
        """Logits for any number M of queries; outside the image they mean nothing.

        Args:
          queries: outputs of the last decoder layer.
          memory, features: output and input of the encoder, without positions.
          maps: of all stages of the backbone.
        """
        batch, count, width = queries.shape

        def repeat(x):  # [B ...] -> [B*M ...]
            return jnp.repeat(x, count, axis=0)

        def refine(conv, norm, x, extent):
            return relu(norm(conv(x, repeat(extent)), repeat(extent)))

        def fuse(x, adapter, finer):
            adapted = adapter(finer)
            return upsample(x, *adapted.shape[1:3]) + repeat(adapted)

        layer1, layer2, layer3, (last, extent) = maps
        _, h, w, _ = last.shape
        attention = self.attention(queries, memory.reshape(batch, h, w, width), valid_cells(extent, h, w))
        attention = attention.reshape(batch * count, h, w, -1)
        # The first convolution sees features and attention side by side. It is linear, so the queries share the
        # features' part.
        shared = self.conv1.convolve_part(features.reshape(batch, h, w, width), extent, slice(width))
        shared += self.conv1.bias[...].astype(shared.dtype)[None, None, None]
        x = repeat(shared) + self.conv1.convolve_part(attention, repeat(extent), slice(width, None))
        x = relu(self.norm1(x, repeat(extent)))
        x = refine(self.conv2, self.norm2, x, extent)
        x = refine(self.conv3, self.norm3, fuse(x, self.adapter1, layer3.values), layer3.extent)
        x = refine(self.conv4, self.norm4, fuse(x, self.adapter2, layer2.values), layer2.extent)
        x = refine(self.conv5, self.norm5, fuse(x, self.adapter3, layer1.values), layer1.extent)
        x = self.output(x, repeat(layer1.extent))
        return x.reshape(batch, count, *x.shape[1:3]).astype(jnp.float32)
