"""DETR (Carion et al. 2020, arXiv:2005.12872): a backbone, a transformer, and two heads on its object queries."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int, UInt8

from detr_jax.models.network import Network, functional
from detr_jax.models.position_encoding import LearnedPositions, SinePositions
from detr_jax.models.preprocess import normalize
from detr_jax.models.resnet import ARCHITECTURES, GROUPS, NORMS, STAGES, ResNet, valid_cells
from detr_jax.models.segmentation import MaskHead
from detr_jax.models.transformer import Transformer, linear
from detr_jax.structures import Array, Predictions

POSITIONS = ("sine", "learned")


def _refuse_impossible(choices: dict, counts: dict[str, int], dropout: float) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} does not exist; choose from {', '.join(allowed)}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")


class BoxHead(nnx.Module):
    """Three linear layers with ReLUs between; its output goes through a sigmoid."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        sizes = [(width, width), (width, width), (width, 4)]
        self.layers = nnx.List([linear(*size, dtype=dtype, rngs=rngs) for size in sizes])

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b 4"]:
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class DETR(nnx.Module):
    """The whole detector: uint8 images in, the class logits and boxes of every query after every layer out.

    The arguments are the ``model`` group of ``configs/detr.py``; see there for their meaning and defaults.
    Raises ValueError, which names the argument and the choices, for a model that cannot be.
    """

    def __init__(
        self, *, num_classes: int, backbone: str, backbone_width: int, last_stage: str, dilation: bool,
        stride_in_1x1: bool, norm: str, position_embedding: str, position_temperature: float, hidden_dim: int,
        heads: int, encoder_layers: int, decoder_layers: int, feed_forward_dim: int, dropout: float,
        num_queries: int, pre_norm: bool, masks: bool = False, remat: bool = False, dtype=jnp.float32, rngs: nnx.Rngs
    ):  # fmt: skip
        _refuse_impossible(
            {"backbone": (backbone, ARCHITECTURES), "last_stage": (last_stage, STAGES), "norm": (norm, NORMS),
             "position_embedding": (position_embedding, POSITIONS)},
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
            pre_norm=pre_norm, remat=remat, dtype=dtype, rngs=rngs
        )  # fmt: skip
        self.query_positions = nnx.Param(jax.random.normal(rngs.params(), (num_queries, hidden_dim)))
        self.class_head = linear(hidden_dim, num_classes + 1, dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(hidden_dim, dtype=dtype, rngs=rngs)
        below = [self.backbone.channels // part for part in (8, 4, 2)]  # channels of layer1 to layer3
        self.mask_head = MaskHead(hidden_dim, heads, below, dtype=dtype, rngs=rngs) if masks else None

    def __call__(
        self,
        images: UInt8[Array, "B H W 3"],
        sizes: Int[Array, "B 2"],
        dropout_key: jax.Array | None = None,
    ) -> Predictions:
        """Predictions for images whose real (height, width) is ``sizes``; dropout only with a key."""
        return self._run(images, sizes, dropout_key)[0]

    def with_masks(
        self,
        images: UInt8[Array, "B H W 3"],
        sizes: Int[Array, "B 2"],
        choose: Callable[[Predictions], Int[Array, "B M"]],
        dropout_key: jax.Array | None = None,
    ) -> tuple[Predictions, Float[Array, "B M h w"]]:
        """Predictions, and mask logits at stride 4 of the queries that ``choose`` names: the best, or the matched ones.

        Needs a model with ``masks``.
        """
        predictions, hidden, *context = self._run(images, sizes, dropout_key)
        chosen = jnp.take_along_axis(hidden[-1], choose(predictions)[..., None], axis=1)
        return predictions, self.mask_head(chosen, *context)

    def _run(self, images, sizes, dropout_key):
        """Predictions and what they come from: decoder outputs, memory, the encoder's input, the backbone's stages."""
        encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        stages = self.backbone.stages(normalize(images, sizes, self.dtype), sizes)
        features, area = stages[-1]
        batch, h, w, _ = features.shape
        tokens = self.input_projection(features).reshape(batch, h * w, -1)
        positions = self.positions(area, h, w).astype(self.dtype).reshape(tokens.shape)
        valid = valid_cells(area, h, w).reshape(batch, h * w)

        memory = self.transformer.encode(tokens, positions, valid, encoder_key)
        queries = self.query_positions[...].astype(self.dtype)
        queries = jnp.broadcast_to(queries[None], (batch, *queries.shape))
        hidden = self.transformer.decode(jnp.zeros_like(queries), queries, memory, positions, valid, decoder_key)

        logits = self.class_head(hidden).astype(jnp.float32)
        boxes = jax.nn.sigmoid(self.box_head(hidden).astype(jnp.float32))
        return Predictions(logits, boxes), hidden, memory, tokens, stages


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
        built = depths, "backbone/layer1/0/conv3/kernel" in shapes
        (backbone,) = [
            name
            for name, architecture in ARCHITECTURES.items()
            if (architecture.depths[:stages], architecture.bottleneck) == built
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
            "masks": masks,
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"these arrays are no DETR of this project: {error} is missing or odd") from error


def network(**settings) -> Network:
    """DETR with these settings (all but ``rngs``) as pure functions over a flat dictionary of arrays."""
    return functional(lambda rngs: DETR(**settings, rngs=rngs))
