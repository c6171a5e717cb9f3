"""The words of ``--config=FILE:WORDS``: named changes of settings, composed in any order."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from detr_jax.config import Config
from detr_jax.config_forms import to_config_dict
from detr_jax.errors import UserError
from detr_jax.spelling import choices

Changes = Mapping[str, Any]  # {"optim.lr": 1e-3, ...}

# The fast detector, of which several configurations are made. docs/lab/learning_speed.md measures each part.
FAST = {
    "model.queries": "selected",
    "model.anchors": True,
    "model.focus": True,
    "model.finer_memory": True,
    "model.class_scores": "sigmoid",
    "model.position_temperature": 20.0,  # as in DAB-DETR
    "model.num_queries": 300,
    "model.dropout": 0.0,
    "loss.class_weight": 2.0,
    "loss.class_cost": 2.0,
}


def compose(
    words: str, models: Mapping[str, Changes], others: Mapping[str, Changes], default: str, base: Changes | None = None
) -> ConfigDict:
    """The configuration that a comma-separated list of words describes, in whatever order they stand.

    Args:
      models: words of which one at most is given; it comes first.
      others: words that change a model, or how it is trained; they win over it.
      default: the word of ``models`` that is meant where none is given.
      base: changes that come before all words.

    Raises UserError for a word that does not exist, and for two that contradict each other.
    """
    given = list(dict.fromkeys(word for word in words.replace(" ", "").split(",") if word))
    for word in given:
        if word not in models and word not in others:
            raise UserError(f"unknown word {word!r} in --config; {choices(word, [*models, *others])}")
    chosen = [word for word in given if word in models] or [default]
    if len(chosen) > 1:
        raise UserError(f"the words {' and '.join(chosen)} in --config contradict each other; choose one of them")
    changes, said_by = {}, {}
    for word in [word for word in given if word in others]:
        for name, value in others[word].items():
            if changes.get(name, value) != value:
                raise UserError(
                    f"the words {said_by[name]} and {word} in --config contradict each other: {name} would be "
                    f"{changes[name]} and {value}; leave one of them out"
                )
            changes[name], said_by[name] = value, word
    config = to_config_dict(Config())
    config.update_from_flattened_dict({**(base or {}), **models[chosen[0]], **changes})
    return config
