"""Object queries: what the decoder starts from, where each of its layers looks, and what is predicted from them."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Float

from detr_jax.models.heads import Heads
from detr_jax.structures import Array, Predictions


@runtime_checkable
class Queries(Protocol):
    """Queries on their way through the decoder."""

    contents: Float[Array, "B N D"]  # input of the first layer
    bias: Float[Array, "B 1 N N"] | None  # added to the logits of their self-attention

    def place(self) -> tuple[Float[Array, "B N D"], Float[Array, "B N 4"] | None]:
        """Their positions, which every attention adds, and their anchors, if they have any."""

    def refine(self, hidden: Float[Array, "B N D"]) -> "Queries":
        """The queries of the next layer, after a layer whose normed output is ``hidden``."""

    def predict(self, hidden: Float[Array, "L B N D"]) -> Predictions:
        """The predictions after all layers."""


class FixedQueries(NamedTuple):
    """The paper's: learned positions, the same for every image and in every layer; one pair of heads for all layers."""

    contents: Float[Array, "B N D"]
    positions: Float[Array, "B N D"]
    heads: Heads
    bias: None = None

    def place(self) -> tuple[Float[Array, "B N D"], None]:
        """The learned positions; no anchors."""
        return self.positions, None

    def refine(self, hidden: Float[Array, "B N D"]) -> "FixedQueries":
        """The queries themselves."""
        return self

    def predict(self, hidden: Float[Array, "L B N D"]) -> Predictions:
        """What the heads read from all layers at once."""
        logits, boxes = self.heads(hidden)
        return Predictions(logits, jax.nn.sigmoid(boxes))
