"""In which format a folder is: COCO, Pascal VOC, YOLO or CSV, and what is said when that is not clear."""

from detr_jax.datasets import box_table, yolo
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.listing import Listing
from detr_jax.errors import UserError

TITLES = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO", "csv": "CSV"}


def recognise_format(listing: Listing, wanted: str = "auto") -> tuple[str, list[str]]:
    """The format of a folder, a key of ``TITLES``, and notes on the choice.

    COCO is taken before the others, as it says the most. Raises UserError when there is no known format, or two others.

    Args:
      wanted: a format that is not to be guessed, or "auto".
    """
    if wanted != "auto":
        if wanted not in TITLES:
            raise UserError(f"--format={wanted} is not known: choose from auto, {', '.join(TITLES)}")
        return wanted, []
    found = [one for one, is_there in _WITNESSES.items() if is_there(listing)]
    if not found:
        raise UserError(
            f"--root={listing.root} holds {listing.describe()}, but neither annotations/instances_train2017.json nor "
            "train/_annotations.coco.json (COCO), no XML files (Pascal VOC), no data.yaml or classes.txt with label "
            "files (YOLO) and no table with a row a box (CSV): give the folder above, or name COCO files with "
            "--train_images, --train_annotations, --val_images and --val_annotations"
        )
    titles = " and ".join(TITLES[one] for one in found)
    if len(found) == 1:
        return found[0], []
    if found[0] == "coco":
        return "coco", [
            f"there are annotations as {titles}: COCO is taken, which says the most (--format=... for another)"
        ]
    raise UserError(
        f"--root={listing.root} has annotations as {titles}: choose with --format={' or --format='.join(found)}"
    )


def _has_coco(listing: Listing) -> bool:
    return bool(find_splits(listing.root))


def _has_voc(listing: Listing) -> bool:
    for path in listing.ending(".xml"):
        with open(listing.root / path, "rb") as file:
            head = file.read(4096).replace(b"\0", b"")  # of UTF-16, too
        if b"<annotation>" in head or b"<annotation " in head:
            return True
    return False


def _has_yolo(listing: Listing) -> bool:
    description = yolo.find_description(listing)
    return yolo.has_labels(listing) or bool(description and description.lower().endswith((".yaml", ".yml")))


def _has_csv(listing: Listing) -> bool:
    return bool(box_table.find_tables(listing))


_WITNESSES = {"coco": _has_coco, "voc": _has_voc, "yolo": _has_yolo, "csv": _has_csv}
