"""Results with the category ids of their detector, translated into those of a dataset by the names of the classes."""

import json
from pathlib import Path

from detr_jax.class_names import describe_matches, match_classes, read_class_map, require_match
from detr_jax.errors import UserError
from detr_jax.structures import Categories

TABLE = 'pass any COCO file of the detector\'s with "categories", or a list like [{"id": 1, "name": "cat"}, ...]'


def read_classes(path: str) -> Categories:
    """The categories of a JSON file. Raises UserError when there are none, or when they are no table of classes."""
    try:
        rows = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--categories={path} cannot be read as JSON ({error}); {TABLE}") from error
    rows = rows.get("categories") if isinstance(rows, dict) else rows
    good = isinstance(rows, list) and rows and all(isinstance(row, dict) and "name" in row for row in rows)
    if not good or not all(isinstance(row.get("id"), int) for row in rows):
        raise UserError(f"--categories={path} holds no categories with id and name; {TABLE}")
    if len({row["id"] for row in rows}) < len(rows):
        raise UserError(f"--categories={path} uses an id twice; each class needs its own")
    return Categories.from_rows(rows)


def named_in(rows: list[dict]) -> Categories | None:
    """The classes that the rows themselves name, as those of ``predict`` do; None where they do not, or not clearly."""
    names = {(row.get("category_id"), row.get("category_name")) for row in rows if isinstance(row, dict)}
    if not names or any(not isinstance(key, int) or not isinstance(name, str) for key, name in names):
        return None
    return Categories(*zip(*sorted(names), strict=True)) if len(dict(names)) == len(names) else None


def translate_results(
    rows: list[dict], dataset: Categories, table: Categories | None = None, class_map: str | None = None
) -> tuple[list[dict], list[str]]:
    """The rows with the dataset's ids, without those of classes that it does not have; and sentences about it.

    Args:
      table: the detector's classes. Without one, names in the rows are used where they contradict the dataset's, and
        rows without names are taken to have the dataset's ids already.
      class_map: file of {the detector's name: the dataset's name}.

    Raises UserError when no class matches, or when rows have ids that the table lacks.
    """
    own = table or named_in(rows)
    if own is None:
        if class_map is not None:
            raise UserError(f"--class_map needs the names of the detector's classes: add --categories=FILE; {TABLE}")
        return rows, []
    if table is None and class_map is None and set(zip(*own, strict=True)) <= set(zip(*dataset, strict=True)):
        return rows, []
    label_of_id, matches = own.label_of_id, match_classes(own, dataset, read_class_map(class_map, own, dataset))
    require_match(matches, own, dataset)
    strangers = {str(row.get("category_id")) for row in rows if row.get("category_id") not in label_of_id}
    if strangers:
        raise UserError(f"results name categories that --categories does not have: {', '.join(sorted(strangers)[:5])}")
    ids = [matches.ids[label_of_id[row["category_id"]]] for row in rows]
    kept = [row | {"category_id": one} for row, one in zip(rows, ids, strict=True) if one is not None]
    said = [f"category ids are those of the detector and are matched by name; {len(kept)} of {len(rows)} results count"]
    return kept, said + describe_matches(matches, own, dataset, "the annotations")
