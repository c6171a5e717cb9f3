"""A threshold for each class, from the thresholds.json that ``analyze errors`` writes."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from detr_jax.errors import UserError
from detr_jax.structures import Categories

KINDS = ("best_f1", "precise")


def read_thresholds(
    path: str | Path, categories: Categories, default: float, kind: str = "best_f1"
) -> Float[np.ndarray, " K"]:
    """The threshold of each label: that of the class of this name, and ``default`` where the file has none.

    Args:
      kind: "best_f1", or "precise": of the precision that was wanted.

    Raises UserError when it is no such file, or when no class has its name.
    """
    path = Path(path).expanduser()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["classes"]
        found = {(int(row["id"]), str(row["name"])): row[kind] for row in rows}
        known = {key: float(value) for key, value in found.items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--thresholds={path} cannot be read ({error}); pass the thresholds.json that analyze errors writes"
        ) from error
    by_name = {}
    for (category_id, name), value in known.items():
        by_name.setdefault(name, {})[category_id] = value
    if not any(name in {name for _, name in found} for name in categories.names):
        raise UserError(
            f"--thresholds={path} is for other classes than those of the model: {', '.join(categories.names[:5])}"
        )
    chosen = []
    for category_id, name in zip(categories.ids, categories.names, strict=True):
        values = by_name.get(name, {})
        one = next(iter(values.values())) if len(values) == 1 else values.get(category_id)  # of one name, by id
        chosen.append(default if one is None else one)
    return np.array(chosen)
