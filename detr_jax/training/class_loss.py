"""What the class scores of a query cost in the matching and in the loss: a softmax with a no-object class as in the
paper, or the focal loss on a sigmoid per class (Lin et al. 2017, arXiv:1708.02002).

Both have the same methods; ``wanted`` is the class that a query should predict, ``no_object`` for none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from detr_jax.config import Config
from detr_jax.structures import Array


class Softmax(NamedTuple):
    """Cross-entropy over K+1 classes; queries without an object weigh ``no_object_weight``."""

    no_object_weight: float = 0.1

    def no_object(self, classes: int) -> int:
        """The class that a query without an object should predict, of so many logits."""
        return classes - 1

    def cost(self, logits: Float[Array, "*b C"]) -> Float[Array, "*b C"]:
        """Matching cost of each class."""
        return -jax.nn.softmax(logits)

    def loss(self, logits: Float[Array, "*b C"], wanted: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Weighted loss of each query."""
        surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
        return jnp.where(wanted == self.no_object(logits.shape[-1]), self.no_object_weight, 1.0) * surprise

    def weight(self, objects: Float[Array, "*b"], queries: int) -> Float[Array, "*b"]:
        """What the losses of an image's queries are divided by: their total weight."""
        return objects + self.no_object_weight * (queries - objects)

    def claims(self, logits: Float[Array, "*b C"]) -> Bool[Array, "*b"]:
        """Whether a query claims to have found an object."""
        return jnp.argmax(logits, axis=-1) != self.no_object(logits.shape[-1])


class Focal(NamedTuple):
    """Binary cross-entropy of each class, less for what is easy."""

    alpha: float = 0.25
    gamma: float = 2.0

    def no_object(self, classes: int) -> int:
        """The class that a query without an object should predict: none of so many logits."""
        return classes

    def _terms(self, logits):
        """Loss of each class if it is the wanted one, and if it is not."""
        probability = jax.nn.sigmoid(logits)
        present = self.alpha * (1 - probability) ** self.gamma * jax.nn.softplus(-logits)
        absent = (1 - self.alpha) * probability**self.gamma * jax.nn.softplus(logits)
        return present, absent

    def cost(self, logits: Float[Array, "*b C"]) -> Float[Array, "*b C"]:
        """Matching cost of each class: what it would change in the loss (Deformable DETR)."""
        present, absent = self._terms(logits)
        return present - absent

    def loss(self, logits: Float[Array, "*b C"], wanted: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Loss of each query, summed over the classes."""
        present, absent = self._terms(logits)
        is_wanted = wanted[..., None] == jnp.arange(logits.shape[-1])[(None,) * wanted.ndim]
        return jnp.sum(jnp.where(is_wanted, present, absent), axis=-1)

    def weight(self, objects: Float[Array, "*b"], queries: int) -> Float[Array, "*b"]:
        """What the losses of an image's queries are divided by: its objects."""
        return objects

    def claims(self, logits: Float[Array, "*b C"]) -> Bool[Array, "*b"]:
        """Whether a query claims to have found an object: a class of more than one half."""
        return jnp.max(logits, axis=-1) > 0


ClassLoss = Softmax | Focal


def make_class_loss(config: Config) -> ClassLoss:
    """The class loss that goes with the model's class scores."""
    return Focal() if config.model.class_scores == "sigmoid" else Softmax(config.loss.no_object_weight)
