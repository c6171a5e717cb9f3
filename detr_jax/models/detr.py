"""DETR (Carion et al. 2020, arXiv:2005.12872): a backbone, a transformer, and two heads on its object queries."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from detr_jax.config import ModelConfig
from detr_jax.config_check import check_model
from detr_jax.errors import UserError
from detr_jax.models.anchors import AnchorQueries
from detr_jax.models.fusion import FinerMemory
from detr_jax.models.heads import Heads, make_heads
from detr_jax.models.layers import Linear
from detr_jax.models.network import Network, make_network
from detr_jax.models.padding import valid_cells
from detr_jax.models.position_encoding import LearnedPositions, SinePositions, make_grid
from detr_jax.models.queries import FixedQueries, Queries
from detr_jax.models.resnet import FeatureMap, ResNet, normalize
from detr_jax.models.segmentation import MaskHead
from detr_jax.models.transformer import DecoderInput, EncoderInput, Memory, Transformer
from detr_jax.ops.resample import resample
from detr_jax.structures import Array, AttentionWeights, Features, Inputs, Noised, Photos, Pixels, Predictions


class Encoded(NamedTuple):
    """The images after the encoder, and before it."""

    maps: list[FeatureMap | None]  # of the backbone's stages
    tokens: Float[Array, "B S D"]  # input of the encoder
    memory: Memory  # its output
    last_layer: EncoderInput | None  # what its last layer started from


class Decoded(NamedTuple):
    """The object queries after the decoder."""

    hidden: Float[Array, "B N D"]
    last_layer: DecoderInput  # what its last layer started from


class DETR(nnx.Module):
    """The whole detector: images in, class logits and boxes of every query after every decoder layer out.

    ``network`` makes it for use outside ``models/``, and checks ``config``.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, dtype="float32", remat: bool = False, rngs: nnx.Rngs):
        width = config.hidden_dim
        self.dtype, self.num_queries = jnp.dtype(dtype), config.num_queries
        self.backbone = ResNet(config, remat=remat, rngs=rngs)
        self.input_projection = Linear(self.backbone.channels, width, dtype=dtype, rngs=rngs)
        self.positions = (
            LearnedPositions(width, rngs=rngs)
            if config.position_embedding == "learned"
            else SinePositions(width, config.position_temperature)
        )
        self.transformer = Transformer(config, dtype=dtype, remat=remat, rngs=rngs)
        widths, strides = self.backbone.widths, self.backbone.strides
        self.finer_stage = strides.index(self.backbone.stride) - 1  # the last one of half the stride
        self.finer = (
            FinerMemory(width, widths[self.finer_stage], dtype=dtype, rngs=rngs) if config.finer_memory else None
        )
        if not config.anchors:
            self.query_positions = nnx.Param(jax.random.normal(rngs.params(), (config.num_queries, width)))
        self.class_head, self.box_head = make_heads(config, num_classes, dtype=dtype, rngs=rngs)
        self.anchor_decoder = AnchorQueries(config, num_classes, dtype=dtype, rngs=rngs) if config.anchors else None
        self.mask_head = MaskHead(width, config.heads, widths[:3], dtype=dtype, rngs=rngs) if config.masks else None

    def __call__(
        self, inputs: Inputs, dropout_key: jax.Array | None = None, noised: Noised | None = None
    ) -> Predictions:
        """Predictions for a batch of images; dropout only with a key.

        ``noised`` objects are denoised beside the object queries, in models with ``config.denoising``.
        """
        return self._run(inputs, dropout_key, noised)[0]

    def with_masks(
        self,
        inputs: Inputs,
        choose: Callable[[Predictions], Int[Array, "B M"]],
        dropout_key: jax.Array | None = None,
    ) -> tuple[Predictions, Float[Array, "B M h w"]]:
        """Predictions, and mask logits at stride 4 of the queries that ``choose`` returns: the best, or the matched.

        Needs a model with ``config.masks``, and all stages of the backbone: no ``Features`` beyond layer1.
        """
        predictions, decoded, encoded = self._run(inputs, dropout_key)
        chosen = jnp.take_along_axis(decoded.hidden, choose(predictions)[..., None], axis=1)
        return predictions, self.mask_head(chosen, encoded.memory.tokens, encoded.tokens, encoded.maps)

    def with_attention(
        self, inputs: Inputs, choose: Callable[[Predictions], Int[Array, "B M"]]
    ) -> tuple[Predictions, AttentionWeights, AttentionWeights | None]:
        """Predictions, and where the last layers look for the queries that ``choose`` returns.

        First the decoder: the attention of these queries into the image. Then the encoder, if it has layers: the
        self-attention of the cells under the centres of the boxes that these queries predict.
        """
        predictions, decoded, encoded = self._run(inputs, None)
        chosen = choose(predictions)
        of_queries = self.transformer.decoder[-1].look(*decoded.last_layer)
        of_queries = jnp.take_along_axis(of_queries, chosen[:, None, :, None], axis=2)
        of_queries = _on_map(of_queries, decoded.last_layer.memory)
        if encoded.last_layer is None:
            return predictions, of_queries, None
        centers = jnp.take_along_axis(predictions.boxes[-1], chosen[..., None], axis=1)[..., :2]
        of_cells = self.transformer.encoder[-1].look(*encoded.last_layer, encoded.memory.cells_at(centers))
        return predictions, of_queries, _on_map(of_cells, encoded.memory)

    def features(self, pixels: Pixels, stage: int) -> Float[Array, "B h w C"]:
        """Output of the backbone's stage (1: layer1, ...), from which ``Features`` are made."""
        return self._run_backbone(pixels)[stage - 1].values

    def _run(self, inputs: Inputs, dropout_key: jax.Array | None, noised: Noised | None = None):
        """The predictions, and what further outputs are made from: a ``Decoded`` and an ``Encoded``."""
        if isinstance(inputs, Photos):
            inputs = resample(inputs)
        encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        encoded = self._encode(inputs, encoder_key)
        memory = encoded.memory if self.finer is None else self._refine_memory(encoded, inputs.sizes)
        queries, hidden, entered = self.transformer.decode(self._start_queries(memory, noised), memory, decoder_key)
        return queries.predict(hidden), Decoded(hidden[-1, :, -self.num_queries :], entered), encoded

    def _run_backbone(self, inputs: Pixels | Features) -> list[FeatureMap | None]:
        if isinstance(inputs, Features):
            return self.backbone.resume(inputs.features.astype(self.dtype), inputs.sizes, inputs.stage)
        return self.backbone(normalize(inputs.pixels, inputs.sizes, self.dtype), inputs.sizes)

    def _encode(self, inputs: Pixels | Features, dropout_key: jax.Array | None) -> Encoded:
        maps = self._run_backbone(inputs)
        features, extent = maps[-1]
        memory = self._make_memory(self.input_projection(features), extent, inputs.sizes, self.backbone.stride)
        tokens, entered = self.transformer.encode(memory.tokens, memory.positions, memory.valid, dropout_key)
        return Encoded(maps, memory.tokens, memory._replace(tokens=tokens), entered)

    def _make_memory(
        self, tokens: Float[Array, "B h w D"], extent: Int[Array, "B 2"], sizes: Int[Array, "B 2"], stride: int
    ) -> Memory:
        batch, h, w, width = tokens.shape
        return Memory(
            tokens.reshape(batch, h * w, width),
            self.positions(extent, h, w).astype(self.dtype).reshape(batch, h * w, width),
            valid_cells(extent, h, w).reshape(batch, h * w),
            make_grid(sizes, h, w, stride),
        )

    def _refine_memory(self, encoded: Encoded, sizes: Int[Array, "B 2"]) -> Memory:
        """The encoder's memory at half its stride."""
        batch, h, w, _ = encoded.maps[-1].values.shape
        tokens = encoded.memory.tokens.reshape(batch, h, w, -1)
        features, extent = encoded.maps[self.finer_stage]
        return self._make_memory(self.finer(tokens, features, extent), extent, sizes, self.backbone.stride // 2)

    def _start_queries(self, memory: Memory, noised: Noised | None) -> Queries:
        heads = Heads(self.class_head, self.box_head)
        if self.anchor_decoder is not None:
            return self.anchor_decoder(memory, noised, heads)
        positions = self.query_positions[...].astype(self.dtype)
        positions = jnp.broadcast_to(positions[None], (memory.tokens.shape[0], *positions.shape))
        return FixedQueries(jnp.zeros_like(positions), positions, heads)


def _on_map(weights: Float[Array, "B A M S8"], memory: Memory) -> AttentionWeights:
    """Weights of the tokens, and of what was added to their end, as a map of the cells."""
    h, w = memory.grid.rows.shape[1], memory.grid.columns.shape[1]
    return AttentionWeights(weights[..., : h * w].reshape(*weights.shape[:3], h, w), 1 / memory.grid.cell)


def network(config: ModelConfig, num_classes: int, *, dtype="float32", remat: bool = False) -> Network:
    """DETR as pure functions over a flat dictionary of arrays. With ``remat``, layers are recomputed backwards.

    Raises UserError, which names the setting and what is allowed, for a model that cannot be.
    """
    check_model(config)
    if num_classes < 1:
        raise UserError(f"the data has {num_classes} classes; a detector needs at least one")
    return make_network(lambda rngs: DETR(config, num_classes, dtype=dtype, remat=remat, rngs=rngs))
