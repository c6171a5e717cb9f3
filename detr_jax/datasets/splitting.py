"""A validation split where there is none: chosen by a seed, near-duplicates kept together, classes spread evenly."""

import hashlib
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from detr_jax.datasets.defects import shown
from detr_jax.errors import UserError


class Part(NamedTuple):
    """A group of images that stay together."""

    key: str  # places it in the order of the seed
    rows: list[int]
    classes: Counter  # how many of its images show a class; None counts those without objects


def split_instances(instances: dict, groups: Int[np.ndarray, " M"], share: float, seed: int) -> tuple[dict, dict, str]:
    """Divides a COCO instances dictionary into training and validation, and says how.

    Args:
      instances: of M images.
      groups: a number for each image; those of one number stay together.
      share: of the images that validation should get, above 0 and below 1.
      seed: another one, another choice. The order of images and annotations does not matter, only their names.

    Raises UserError when there is only one group.
    """
    classes = _find_classes(instances)
    parts = _make_parts(instances, groups, classes, seed)
    if len(parts) < 2:
        raise UserError(
            f"{len(instances['images']):,} images that are nearly the same cannot be split into training and "
            "validation: add photos, or pass --val_share=0 to train without validation"
        )
    is_val = np.zeros(len(classes), bool)
    for part in _choose(parts, share):
        is_val[part.rows] = True
    train, val = (_take_images(instances, is_val == chosen) for chosen in (False, True))
    return train, val, _describe(instances, parts, classes, is_val, seed)


def _find_classes(instances: dict) -> list[set]:
    """The category ids that each image shows, crowds aside; {None} of one that shows nothing."""
    of_image: dict[int, set] = defaultdict(set)
    for row in instances["annotations"]:
        if not row.get("iscrowd"):
            of_image[row["image_id"]].add(row["category_id"])
    return [of_image.get(image["id"]) or {None} for image in instances["images"]]


def _make_parts(instances: dict, groups: Int[np.ndarray, " M"], classes: list[set], seed: int) -> list[Part]:
    """The groups in the order that the seed gives them."""
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    names = [image["file_name"] for image in instances["images"]]
    parts = []
    for rows in members.values():
        first = min(names[row] for row in rows)
        key = hashlib.sha256(f"{seed} {first}".encode(errors="surrogateescape")).hexdigest()
        parts.append(Part(key, rows, Counter(one for row in rows for one in classes[row])))
    return sorted(parts, key=lambda part: part.key)


def _choose(parts: list[Part], share: float) -> list[Part]:
    """The parts for validation: class after class from the rarest, each until its share is reached.

    A class that two or more parts show is in both splits, if a part can be found that leaves no class without training.
    """
    total = sum((part.classes for part in parts), Counter())
    left = Counter(one for part in parts for one in part.classes)  # parts for training by class
    images = sum(len(part.rows) for part in parts)
    chosen: dict[str, Part] = {}
    shown_in_val: Counter = Counter()
    taken = 0
    for one in sorted(total, key=lambda key: (total[key], str(key))):
        wanted = max(1, round(share * total[one]))
        for part in parts:
            if shown_in_val[one] >= wanted:
                break
            if part.classes[one] == 0 or part.key in chosen or any(left[other] < 2 for other in part.classes):
                continue
            exceeds = (
                shown_in_val[one] + part.classes[one] > 1.5 * wanted or taken + len(part.rows) > 1.5 * share * images
            )
            if exceeds and shown_in_val[one]:  # the first of a class may be large
                continue
            chosen[part.key] = part
            shown_in_val += part.classes
            left -= Counter(dict.fromkeys(part.classes, 1))
            taken += len(part.rows)
    return list(chosen.values()) or [min(parts, key=lambda part: len(part.rows))]


def _take_images(instances: dict, keep: Bool[np.ndarray, " M"]) -> dict:
    """Some images and their annotations. Annotations of no image stay with the part of the first image."""
    images = [image for image, wanted in zip(instances["images"], keep.tolist(), strict=True) if wanted]
    others = {image["id"] for image, wanted in zip(instances["images"], keep.tolist(), strict=True) if not wanted}
    own = {image["id"] for image in images}
    with_strays = bool(keep[:1].all())
    rows = [
        row
        for row in instances["annotations"]
        if row["image_id"] in own or (with_strays and row["image_id"] not in others)
    ]
    return instances | {"images": images, "annotations": rows}


def _describe(instances: dict, parts: list[Part], classes: list[set], is_val: Bool[np.ndarray, " M"], seed: int) -> str:
    counts = [int((~is_val).sum()), int(is_val.sum())]
    together = sum(len(part.rows) for part in parts if len(part.rows) > 1)
    several = sum(len(part.rows) > 1 for part in parts)
    sentence = f"no validation split: {counts[1]:,} of {sum(counts):,} images become val by --split_seed={seed}"
    if several:
        sentence += f"; near-duplicates stay together ({together:,} images, groups: {several:,})"
    names = {row["id"]: row["name"] for row in instances["categories"]}
    inside = [set().union(*(classes[row] for row in np.flatnonzero(is_val == chosen))) for chosen in (False, True)]
    sizes = [len(part & names.keys()) for part in inside]
    sentence += f"; classes: {sizes[0]:,} of {len(names):,} in train, {sizes[1]:,} in val"
    missing = [shown(names[one]) for one in names if one in inside[0] and one not in inside[1]]
    if missing:
        sentence += f" (not {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''})"
    return sentence
