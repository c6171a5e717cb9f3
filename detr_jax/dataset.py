"""Everything about data before training: prepare it, check it, look at it, count it, draw a synthetic set.

python -m detr_jax.dataset prepare --name=cells --data_dir=data --root=FOLDER   (COCO, Pascal VOC, YOLO or CSV)
python -m detr_jax.dataset check   --root=FOLDER                (or --name=cells --data_dir=data)
python -m detr_jax.dataset convert --root=FOLDER --to=voc --output=NEW  (or coco, yolo, csv)
python -m detr_jax.dataset show    --name=cells --data_dir=data --split=train --n=16 --output=grid.png
python -m detr_jax.dataset stats   --name=cells --data_dir=data --config=configs/finetune.py
python -m detr_jax.dataset shapes  --root=FOLDER                (with --name=shapes also prepared)
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import flags

from detr_jax import cli, drawing
from detr_jax.batches.fitting import fit_to_images
from detr_jax.config_forms import as_flags
from detr_jax.datasets import shapes
from detr_jax.datasets.conversion import IMAGE_CHOICES, convert_folder
from detr_jax.datasets.defects import EXAMPLES, DefectiveData, describe_defects, printable
from detr_jax.datasets.examination import Sightings
from detr_jax.datasets.folders import SplitFolder, merge_classes
from detr_jax.datasets.inspection import Inspection, count_objects, inspect_folder, inspect_split
from detr_jax.datasets.layouts import TITLES
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import find_damage, open_split, split_names
from detr_jax.datasets.user_folder import DEFAULT, FolderOptions, PreparedFolder, opened_root, prepare_folder
from detr_jax.errors import UserError
from detr_jax.images.decoding import decode
from detr_jax.structures import Categories

FLAGS = flags.FLAGS
SPLITS = ("train", "val", "test")


def define_flags() -> None:
    """Defines the flags of all verbs."""
    flags.DEFINE_string(
        "name",
        None,
        "prepare, check, show, stats, shapes: name of the prepared dataset: lower case letters, digits, underscores.",
    )
    flags.DEFINE_string("data_dir", "data", "prepare, check, show, stats, shapes: folder of all prepared datasets.")
    flags.DEFINE_string(
        "root",
        None,
        "prepare, check, convert: folder of images and annotations. shapes: folder to write.",
    )
    flags.DEFINE_enum("format", DEFAULT.format, ("auto", *TITLES), "prepare, check, convert: format of --root.")
    flags.DEFINE_float("val_share", DEFAULT.val_share, "prepare: share of --root that becomes val if there is none.")
    flags.DEFINE_integer("split_seed", DEFAULT.split_seed, "prepare: another seed chooses other images for val.")
    flags.DEFINE_enum(
        "voc_offset",
        None,
        ("0", "1"),
        "prepare, check, convert: Pascal VOC: 1 if pixels count from 1, as in the VOC devkit.",
    )
    folders = "prepare, check, convert"
    for split in SPLITS:
        flags.DEFINE_string(f"{split}_images", None, f"{folders}: folder of the {split} images, in place of --root.")
        flags.DEFINE_string(f"{split}_annotations", None, f"{folders}: COCO instances JSON of these.")
    flags.DEFINE_bool("overwrite", False, "prepare: replace a dataset of the same name.")
    flags.DEFINE_bool("skip_missing", False, "prepare: leave out images that are listed but not on disk.")
    flags.DEFINE_bool("skip_broken", False, "prepare: leave out images that cannot be decoded or have another size.")
    flags.DEFINE_bool("allow_outside", False, "prepare, check: take images outside of the image folders, too.")
    flags.DEFINE_bool("quick", False, "prepare, check: look at the header of each image only; decode none.")
    cli.define_config()
    flags.DEFINE_string("split", None, "check, show, stats: which split, such as train or val[:100].")
    flags.DEFINE_integer("n", 16, "show: number of images, spread evenly over the split.")
    flags.DEFINE_string("output", None, "show: the picture to write (grid.png). convert: the new folder.")
    flags.DEFINE_enum("to", None, list(TITLES), "convert: format of the new folder.")
    flags.DEFINE_enum("images", "link", IMAGE_CHOICES, "convert: how images get into the new folder, if they do.")
    for name, default in shapes.DEFAULT._asdict().items():
        flags.DEFINE_integer(name, default, f"shapes: {shapes.MEANING[name]}.")


def prepare() -> None:
    """Prepares a folder of images and annotations for training, as DATA_DIR/NAME, and says what is odd about it."""
    name, explicit = _dataset_name(), _explicit_folders()
    choices = {key: FLAGS[key].value for key in ("overwrite", "skip_missing", "skip_broken", "quick")}
    try:
        if explicit:
            prepared = PreparedFolder(True, prepare_dataset(explicit, FLAGS.data_dir, name, **choices), [])
        else:
            prepared = prepare_folder(FLAGS.root, name, FLAGS.data_dir, _folder_options(), **choices)
    except DefectiveData as error:
        _print_lines(error.describe())
        raise
    _print_lines(prepared.describe())


def check() -> int:
    """Decodes every image, names every defect and counts the classes; 1 if training would stop on a defect."""
    damages, found, sightings = [], {}, Sightings()
    if FLAGS.name:
        damages = find_damage(FLAGS.data_dir, FLAGS.name)
        for damage in damages:
            print(f"{FLAGS.name}: {damage}")
        for name in [FLAGS.split] if FLAGS.split else split_names(FLAGS.data_dir, FLAGS.name):
            try:
                split = open_split(FLAGS.data_dir, FLAGS.name, name, verify=not damages)
                found[name] = inspect_split(split, sightings, FLAGS.quick)
            except UserError as error:
                damages.append(f"{name}: {error}")
                print(damages[-1])
    else:
        with _split_folders() as folders:
            for name, folder in folders.items():
                found[name] = inspect_folder(folder, name, sightings, FLAGS.quick)
    for name, inspection in found.items():
        _print_inspection(name, inspection)
    stopping = sum(d.count for inspection in found.values() for d in inspection.defects if d.stops) + len(damages)
    try:
        merge_classes({name: inspection.categories for name, inspection in found.items()} or {"": Categories((), ())})
    except UserError as error:
        print(error)
        stopping += 1
    print(f"training would stop on {stopping:,} of these: correct them first" if stopping else "nothing stops training")
    return int(stopping > 0)


def show() -> None:
    """Draws the boxes and names of some images on one sheet."""
    split = open_split(FLAGS.data_dir, _dataset_name(), FLAGS.split or "train")
    if FLAGS.n < 1:
        raise UserError(f"--n={FLAGS.n} shows nothing: give 1 or more")
    drawn = []
    for row in np.unique(np.linspace(0, len(split) - 1, FLAGS.n).round().astype(int)):
        record = split[row]
        names = [split.categories.names[label] for label in record.labels]
        image = decode(record.image, tuple(split.sizes[row].tolist()))
        drawn.append(drawing.draw_boxes(image, record.boxes_xyxy_pixels, names, record.labels.tolist()))
    output = FLAGS.output or "grid.png"
    drawing.save(drawing.grid(drawn, columns=int(np.ceil(len(drawn) ** 0.5))), output)
    print(f"{output}: {len(drawn)} of {len(split):,} images")


def convert() -> None:
    """Writes a folder in another format, and says what that format cannot hold."""
    if not (FLAGS.to and FLAGS.output):
        raise UserError("pass --to=FORMAT (coco, voc, yolo or csv) and --output=FOLDER, the new folder")
    with _split_folders() as folders:
        for line in convert_folder(folders, FLAGS.to, FLAGS.output, FLAGS.images, int(FLAGS.voc_offset or 0)):
            print(line)
    print(f"{FLAGS.output}: written as {TITLES[FLAGS.to]}")


def stats() -> None:
    """Prints how many boxes of which class and size there are, and how large the images are.

    With ``--config`` also the scale and canvases on which it would be trained.
    """
    opened = functools.cache(functools.partial(open_split, FLAGS.data_dir, _dataset_name()))
    for name in [FLAGS.split] if FLAGS.split else split_names(FLAGS.data_dir, _dataset_name()):
        split = opened(name)
        counts = count_objects(split)
        (low_h, low_w), (mid_h, mid_w), (high_h, high_w) = np.percentile(split.sizes, (0, 50, 100), axis=0).astype(int)
        print(f"{name}: {len(split):,} images, height {low_h} to {high_h} (median {mid_h}), ", end="")
        print(f"width {low_w} to {high_w} (median {mid_w}); {(counts.boxes_of_image == 0).sum():,} without boxes")
        print(f"  {counts.boxes.sum():,} boxes and {counts.crowds:,} crowds; in an image ", end="")
        print(f"{counts.boxes_of_image.mean():.1f} boxes on average, {counts.boxes_of_image.max()} at most")
        print(f"  {'id':>6} {'class':<24} {'boxes':>9} {'images':>9} {'small':>9} {'medium':>9} {'large':>9}")
        for label, (category_id, title) in enumerate(zip(*split.categories, strict=True)):
            numbers = (counts.boxes[label].sum(), counts.images[label], *counts.boxes[label])
            print(f"  {category_id:>6} {printable(title):<24} " + " ".join(f"{number:>9,}" for number in numbers))
    if FLAGS.config is not None:
        config = cli.config()
        fit = fit_to_images(config, opened(config.data.train_split), opened(config.data.val_split))
        _print_lines(map(as_flags, fit.notes or ["the configuration names its canvases"]))


def draw_shapes() -> None:
    """Writes the synthetic set as a COCO folder (--root), or prepares it (--name), or both."""
    settings = shapes.Settings(*(getattr(FLAGS, name) for name in shapes.Settings._fields))
    if not (FLAGS.root or FLAGS.name):
        raise UserError("nothing to write: pass --root=FOLDER for a COCO folder, --name=shapes for a prepared dataset")
    if FLAGS.root:
        shapes.write(FLAGS.root, settings)
        print(f"{FLAGS.root}: {settings.train:,} + {settings.val:,} images")
    if FLAGS.name:
        shapes.prepare(FLAGS.data_dir, FLAGS.name, settings)
        print(f"{Path(FLAGS.data_dir) / FLAGS.name}: prepared")


VERBS = {
    "prepare": prepare,
    "check": check,
    "convert": convert,
    "show": show,
    "stats": stats,
    "shapes": draw_shapes,
}


def _dataset_name() -> str:
    if not FLAGS.name:
        raise UserError("the dataset has no name yet: pass --name=NAME (and --data_dir=DIR if it is not ./data)")
    return FLAGS.name


def _explicit_folders() -> dict[str, SplitFolder]:
    """The splits whose paths are given; none if there is --root."""
    given = {name: (FLAGS[f"{name}_images"].value, FLAGS[f"{name}_annotations"].value) for name in SPLITS}
    for name, (images, annotations) in given.items():
        if bool(images) != bool(annotations):
            missing = "annotations" if images else "images"
            raise UserError(
                f"--{name}_{missing} is missing: pass it with --{name}_{'images' if annotations else 'annotations'}"
            )
    explicit = {
        name: SplitFolder(*(Path(path).expanduser() for path in pair), allow_outside=FLAGS.allow_outside)
        for name, pair in given.items()
        if all(pair)
    }
    if bool(explicit) == bool(FLAGS.root):
        raise UserError(
            "pass either --root=FOLDER or explicit paths (--train_images, --train_annotations, --val_images, "
            f"--val_annotations){', not both' if explicit else ''}"
        )
    return explicit


def _folder_options() -> FolderOptions:
    offset = None if FLAGS.voc_offset is None else int(FLAGS.voc_offset)
    return FolderOptions(FLAGS.format, FLAGS.val_share, FLAGS.split_seed, offset, FLAGS.allow_outside)


@contextmanager
def _split_folders() -> Iterator[dict[str, SplitFolder]]:
    """The splits that the flags describe, as they are: explicit paths, or what is found in --root."""
    if explicit := _explicit_folders():
        yield explicit
        return
    with opened_root(FLAGS.root, _folder_options()._replace(val_share=0), (FLAGS.data_dir,)) as opened:
        for note in opened.notes:
            print(note)
        yield opened.splits


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _print_inspection(name: str, inspection: Inspection) -> None:
    """What was checked, every defect, the table of classes, and the count of defects."""
    categories, defects = inspection.categories, inspection.defects
    boxes, classes = int(inspection.boxes.sum()), len(categories.ids)
    print(f"{name}: checked {inspection.images:,} images, {boxes:,} boxes, {classes:,} classes")
    _print_lines(describe_defects(name, defects))
    for defect in defects:
        if defect.count > EXAMPLES:
            for where in defect.where:
                print(f"  {defect.kind}: {where}")
        if defect.count > len(defect.where):
            print(f"  {defect.kind}: ... and {defect.count - len(defect.where):,} more")
    print(f"  {'id':>6} {'class':<24} {'boxes':>9}")
    for category_id, title, count in zip(*categories, inspection.boxes.tolist(), strict=True):
        print(f"  {category_id:>6} {printable(title):<24} {count:>9,}")
    for note in inspection.notes:
        print(f"{name}: note: {note}")
    total, stopping = (sum(d.count for d in defects if d.stops or every) for every in (True, False))
    print(f"{name}: {total:,} defect{'' if total == 1 else 's'}, {stopping:,} that stop training")


def main(argv: list[str]) -> int | None:
    """Runs the verb."""
    act, more = cli.choose_verb(argv, VERBS)
    cli.refuse_words(more)
    return act()


if __name__ == "__main__":
    cli.run(main, define_flags, VERBS)
