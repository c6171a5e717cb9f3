"""What annotations of other benchmarks mean that COCO's rules do not know: said, never passed over."""

GROUPS = ("isgroupof", "is_group_of", "is_group", "group_of", "groupof")  # how converters of Open Images write it
LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


def describe_conventions(ground_truth: dict) -> list[str]:
    """A sentence for each convention of a COCO dictionary under which another benchmark computes other figures."""
    images, annotations = ground_truth["images"], ground_truth["annotations"]
    notes = []
    if any(key in image for image in images for key in LVIS):
        notes.append(
            "these annotations are LVIS's: each image was searched for some classes only. COCO's rules, used here, "
            "count detections of all other classes as wrong, so AP is lower than LVIS's; LVIS's own figures "
            "(AP, APr, APc, APf with 300 detections in an image) are computed by the package lvis from predictions.json"
        )
    groups = sum(_is_group(annotation) for annotation in annotations)
    if groups:
        notes.append(
            f"{groups} annotations are marked as groups (Open Images) without iscrowd, and count as single objects; "
            "set iscrowd to 1 where several detections may lie in a group. Open Images' own AP, at IoU 0.5 and with "
            "its hierarchy of classes, is computed by the TensorFlow Object Detection API"
        )
    return notes


def _is_group(annotation: dict) -> bool:
    if annotation.get("iscrowd"):
        return False
    places = (annotation, annotation.get("attributes"), annotation.get("extra"))
    fields = [item for place in places if isinstance(place, dict) for item in place.items()]
    return any(str(name).casefold() in GROUPS and value not in (0, "0", False, None) for name, value in fields)
