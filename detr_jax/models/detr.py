"""DETR (Carion et al. 2020, arXiv:2005.12872): a backbone, a transformer, and two heads on its object queries."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int, UInt8

from detr_jax.models.anchors import OBJECTNESS, AnchorDecoder, Heads, LearnedAnchors, SelectedAnchors
from detr_jax.models.fusion import FinerMemory
from detr_jax.models.layers import Perceptron, linear
from detr_jax.models.network import Network, functional
from detr_jax.models.position_encoding import LearnedPositions, SinePositions, grid
from detr_jax.ops.resample import normalize
from detr_jax.models.resnet import ARCHITECTURES, GROUPS, NORMS, STAGES, ResNet, valid_cells
from detr_jax.models.segmentation import MaskHead
from detr_jax.models.transformer import Memory, Transformer
from detr_jax.structures import Array, Noised, Outputs, Predictions

POSITIONS = ("sine", "learned")
QUERIES = ("learned", "selected")
# Settings that are younger than some checkpoints, and what those were trained with.
LATER = {
    "queries": "learned", "anchors": False, "focus": False, "finer_memory": False, "denoising": 0,
    "class_scores": "softmax", "layer_heads": False, "masks": False,
}  # fmt: skip
PRIOR = -math.log(9)  # first bias of sigmoid scores: every class starts at a probability of 0.1


def _refuse_impossible(choices: dict, counts: dict[str, int], dropout: float) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} does not exist; choose from {', '.join(allowed)}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")


def _refuse_without_anchors(anchors: bool, asked: dict[str, bool]) -> None:
    for name, wanted in asked.items():
        if wanted and not anchors:
            raise ValueError(f"{name} works on anchor boxes: set anchors=True too, or leave {name} out")


class Encoded(NamedTuple):
    """What the encoder made of the images, and what it was made of."""

    stages: list  # of ``ResNet.stages``
    inputs: Float[Array, "B S D"]  # tokens that the encoder was given
    memory: Memory


class DETR(nnx.Module):
    """The whole detector: uint8 images in, the class logits and boxes of every query after every layer out.

    The arguments are the ``model`` group of ``configs/detr.py``; see there for their meaning and defaults.
    Raises ValueError, which names the argument and the choices, for a model that cannot be.
    """

    def __init__(
        self, *, num_classes: int, backbone: str, backbone_width: int, last_stage: str, dilation: bool,
        stride_in_1x1: bool, norm: str, position_embedding: str, position_temperature: float, hidden_dim: int,
        heads: int, encoder_layers: int, decoder_layers: int, feed_forward_dim: int, dropout: float,
        num_queries: int, pre_norm: bool, queries: str = LATER["queries"], anchors: bool = LATER["anchors"],
        focus: bool = LATER["focus"], finer_memory: bool = LATER["finer_memory"], denoising: int = LATER["denoising"],
        class_scores: str = LATER["class_scores"], layer_heads: bool = LATER["layer_heads"],
        masks: bool = LATER["masks"], remat: bool = False, dtype=jnp.float32, rngs: nnx.Rngs
    ):  # fmt: skip
        _refuse_impossible(
            {"backbone": (backbone, ARCHITECTURES), "last_stage": (last_stage, STAGES), "norm": (norm, NORMS),
             "position_embedding": (position_embedding, POSITIONS), "queries": (queries, QUERIES),
             "class_scores": (class_scores, OBJECTNESS)},
            {"num_classes": num_classes, "backbone_width": backbone_width, "hidden_dim": hidden_dim, "heads": heads,
             "decoder_layers": decoder_layers, "feed_forward_dim": feed_forward_dim, "num_queries": num_queries},
            dropout,
        )  # fmt: skip
        if hidden_dim % heads or hidden_dim % 4:
            raise ValueError(
                f"hidden_dim={hidden_dim} must be a multiple of heads={heads} and of 4 (two sines an axis)"
            )
        if norm == "group" and backbone_width % GROUPS:
            raise ValueError(f"backbone_width={backbone_width} must be a multiple of {GROUPS} for norm='group'")
        if denoising < 0:
            raise ValueError(f"denoising={denoising} must be 0 or more groups")
        _refuse_without_anchors(anchors, {"queries": queries == "selected", "focus": focus, "denoising": denoising > 0})
        if masks and last_stage != "layer4":
            raise ValueError(f"masks=True needs last_stage='layer4', not {last_stage!r}")
        self.dtype = jnp.dtype(dtype)
        self.backbone = ResNet(
            backbone, width=backbone_width, last_stage=last_stage, dilation=dilation, stride_in_1x1=stride_in_1x1,
            norm=norm, remat=remat, rngs=rngs
        )  # fmt: skip
        self.input_projection = linear(self.backbone.channels, hidden_dim, dtype=dtype, rngs=rngs)
        self.positions = (
            LearnedPositions(hidden_dim, rngs)
            if position_embedding == "learned"
            else SinePositions(hidden_dim, position_temperature)
        )
        self.transformer = Transformer(
            hidden_dim, heads, feed_forward_dim, encoder_layers, decoder_layers, dropout_rate=dropout,
            pre_norm=pre_norm, focused=focus, remat=remat, dtype=dtype, rngs=rngs
        )  # fmt: skip
        if finer_memory and self.backbone.stride == 4:
            raise ValueError("finer_memory reads the stage before the stride was last halved: last_stage has none")
        self.finer_stage = self.backbone.strides.index(self.backbone.stride) - 1
        self.finer = (
            FinerMemory(hidden_dim, self.backbone.channels_of[self.finer_stage], dtype=dtype, rngs=rngs)
            if finer_memory
            else None
        )
        outputs = num_classes + (class_scores == "softmax")

        def head_pair() -> Heads:
            classes = linear(hidden_dim, outputs, dtype=dtype, rngs=rngs)
            if class_scores == "sigmoid":
                classes.bias[...] = jnp.full(outputs, PRIOR)
            return Heads(classes, Perceptron(*[hidden_dim] * 3, 4, silent=anchors, dtype=dtype, rngs=rngs))

        if not anchors:
            self.query_positions = nnx.Param(jax.random.normal(rngs.params(), (num_queries, hidden_dim)))
        self.class_head, self.box_head = head_pair()
        self.earlier_heads = nnx.List([nnx.List(head_pair()) for _ in range((decoder_layers - 1) * layer_heads)])
        if anchors:
            source = (
                SelectedAnchors(hidden_dim, num_queries, head_pair(), class_scores, dtype=dtype, rngs=rngs)
                if queries == "selected"
                else LearnedAnchors(num_queries, rngs=rngs)
            )
            self.anchor_decoder = AnchorDecoder(
                hidden_dim, num_queries, position_temperature, source, num_classes if denoising else 0,
                dtype=dtype, rngs=rngs
            )  # fmt: skip
        self.anchored = anchors
        below = [self.backbone.channels // part for part in (8, 4, 2)]  # channels of layer1 to layer3
        self.mask_head = MaskHead(hidden_dim, heads, below, dtype=dtype, rngs=rngs) if masks else None

    def features(self, images: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], stage: int):
        """Features [B h w C] of the backbone's stage (from 1 on), for ``__call__``'s ``below``."""
        return self.backbone.stages(normalize(images, sizes, self.dtype), sizes)[stage - 1][0]

    def _memory(self, maps: Float[Array, "B h w D"], area: Int[Array, "B 2"], sizes: Int[Array, "B 2"], stride: int):
        """A map as tokens, with what is known of its cells."""
        batch, h, w, width = maps.shape
        return Memory(
            maps.reshape(batch, h * w, width),
            self.positions(area, h, w).astype(self.dtype).reshape(batch, h * w, width),
            valid_cells(area, h, w).reshape(batch, h * w),
            grid(sizes, h, w, stride),
        )

    def _encode(self, images, sizes, dropout_key: jax.Array | None, below: int) -> Encoded:
        pixels = images.astype(self.dtype) if below else normalize(images, sizes, self.dtype)
        stages = self.backbone.stages(pixels, sizes, below)
        features, area = stages[-1]
        inputs = self._memory(self.input_projection(features), area, sizes, self.backbone.stride)
        tokens = self.transformer.encode(inputs.tokens, inputs.positions, inputs.valid, dropout_key)
        return Encoded(stages, inputs.tokens, inputs._replace(tokens=tokens))

    def _refined(self, encoded: Encoded, sizes: Int[Array, "B 2"]) -> Memory:
        """What the decoder reads: the encoder's memory, or the finer one made of it."""
        if self.finer is None:
            return encoded.memory
        _, h, w, _ = encoded.stages[-1][0].shape
        tokens = encoded.memory.tokens
        features, area = encoded.stages[self.finer_stage]
        maps = self.finer(tokens.reshape(tokens.shape[0], h, w, -1), features, area)
        return self._memory(maps, area, sizes, self.backbone.stride // 2)

    @property
    def heads(self) -> list[Heads]:
        """The heads of every decoder layer; one pair for all, unless each has its own."""
        last = Heads(self.class_head, self.box_head)
        return [*(Heads(*pair) for pair in self.earlier_heads), last] if self.earlier_heads else [last]

    def _decode_learned(self, memory: Memory, noised: None, dropout_key: jax.Array | None):
        queries = self.query_positions[...].astype(self.dtype)
        queries = jnp.broadcast_to(queries[None], (memory.tokens.shape[0], *queries.shape))
        hidden = self.transformer.decode(jnp.zeros_like(queries), queries, memory, dropout_key)
        # One pair of heads reads all layers at once.
        parts = [head(part) for head, part in zip(self.heads, jnp.split(hidden, len(self.heads)), strict=True)]
        logits, boxes = (jnp.concatenate(values) for values in zip(*parts, strict=True))
        return Outputs(logits, jax.nn.sigmoid(boxes)), hidden[-1]

    def _decode_anchors(self, memory: Memory, noised: Noised | None, dropout_key: jax.Array | None):
        return self.anchor_decoder(self.transformer, self.heads, memory, noised, dropout_key)

    def _run(self, images, sizes, dropout_key, noised=None, below=0) -> tuple[Outputs, Array, Encoded]:
        """Outputs, the decoder's last hidden states [B N D], and what the encoder made of the images."""
        encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        encoded = self._encode(images, sizes, encoder_key, below)
        decode = self._decode_anchors if self.anchored else self._decode_learned
        return *decode(self._refined(encoded, sizes), noised, decoder_key), encoded

    def __call__(
        self,
        images: UInt8[Array, "B H W 3"] | Float[Array, "B h w C"],
        sizes: Int[Array, "B 2"],
        dropout_key: jax.Array | None = None,
        noised: Noised | None = None,
        below: int = 0,
    ) -> Outputs:
        """Predictions for images whose real (height, width) is ``sizes``; dropout only with a key.

        ``noised`` objects are denoised beside them, in models with ``denoising``. With ``below``, ``images`` are
        the ``features`` of that stage of the backbone.
        """
        return self._run(images, sizes, dropout_key, noised, below)[0]

    def with_masks(
        self,
        images: UInt8[Array, "B H W 3"],
        sizes: Int[Array, "B 2"],
        choose: Callable[[Predictions], Int[Array, "B M"]],
        dropout_key: jax.Array | None = None,
    ) -> tuple[Outputs, Float[Array, "B M h w"]]:
        """Predictions, and mask logits at stride 4 of the queries that ``choose`` names: the best, or the matched ones.

        Needs a model with ``masks``.
        """
        outputs, hidden, encoded = self._run(images, sizes, dropout_key)
        chosen = jnp.take_along_axis(hidden, choose(outputs)[..., None], axis=1)
        return outputs, self.mask_head(chosen, encoded.memory.tokens, encoded.inputs, encoded.stages)


def settings_of(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """The settings of a model whose arrays have these shapes.

    What shapes do not tell has the original's value: no dilation, 32 features a head, dropout 0.1.

    Raises ValueError when no model of this file has such arrays.
    """

    def count(pattern: str) -> int:
        """How many numbers, from 0 or 1, continue this beginning of a name."""
        return len({name[len(pattern) :].split("/")[0] for name in shapes if name.startswith(pattern)})

    try:
        stages = count("backbone/layer")
        depths = tuple(count(f"backbone/layer{stage}/") for stage in range(1, stages + 1))
        built = depths, "backbone/layer1/0/conv3/kernel" in shapes, "backbone/conv0/kernel" in shapes
        (backbone,) = [
            name
            for name, (depths, bottleneck, small_stem) in ARCHITECTURES.items()
            if (depths[:stages], bottleneck, small_stem) == built
        ]
        num_queries, hidden_dim = shapes["query_positions"]
        masks = "mask_head/conv1/kernel" in shapes  # over the features and the map of each head
        heads = shapes["mask_head/conv1/kernel"][2] - hidden_dim if masks else max(hidden_dim // 32, 1)
        return {
            "num_classes": shapes["class_head/kernel"][1] - 1,
            "backbone": backbone,
            "backbone_width": shapes["backbone/conv1/kernel"][-1],
            "last_stage": f"layer{stages}",
            "dilation": False,
            "stride_in_1x1": False,
            "norm": "frozen_batch" if "backbone/norm1/mean" in shapes else "group",
            "position_embedding": "learned" if "positions/rows" in shapes else "sine",
            "position_temperature": 10000.0,
            "hidden_dim": hidden_dim,
            "heads": heads,
            "encoder_layers": count("transformer/encoder/"),
            "decoder_layers": count("transformer/decoder/"),
            "feed_forward_dim": shapes["transformer/decoder/0/feed_forward/linear1/kernel"][1],
            "dropout": 0.1,
            "num_queries": num_queries,
            "pre_norm": "transformer/encoder_norm/scale" in shapes,
            **LATER | {"masks": masks},
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"these arrays are no DETR of this project: {error} is missing or odd") from error


def network(**settings) -> Network:
    """DETR with these settings (all but ``rngs``) as pure functions over a flat dictionary of arrays."""
    return functional(lambda rngs: DETR(**settings, rngs=rngs))
