"""Finds objects in image files.

    python -m detr_jax.predict --checkpoint=runs/cells --input=photos/ --output=found --draw

Writes ``predictions.json`` (COCO results format, with file and class names); with --draw, every image with its
detections; with --format, a folder of annotations to be corrected by hand. With --tile, large photos are cut for
the sake of small objects. Images are seen upright, as a viewer shows them: their EXIF rotation is applied, and boxes
are in pixels of that upright image. Of animated and multi-page files the first frame is taken.

Folders are searched through for whatever is an image. A file that looks like one but cannot be used is listed and
left out; the exit status is then 2. Other files are counted. Pictures that this program has drawn and folders of
annotations that it has written are never read again, and none of your files is overwritten; results of an earlier run
in the same output folder are, and this is said.

Runs on every device, and on several hosts like training; the first host prints and writes.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from detr_jax import cli, devices, drawing, files, hosts
from detr_jax.datasets.conversion import IMAGE_CHOICES, require_links
from detr_jax.datasets.layouts import TITLES
from detr_jax.errors import UserError
from detr_jax.images.decoding import Limits
from detr_jax.inference.detector import Detector, load
from detr_jax.inference.folders_of_images import (
    PRELABELS,
    SOFTWARE,
    Checked,
    Found,
    check_images,
    find_images,
    is_drawn,
)
from detr_jax.inference.image_files import ImageFiles
from detr_jax.inference.image_lists import read_image_list
from detr_jax.inference.prelabels import Prelabels
from detr_jax.inference.thresholds import KINDS, read_thresholds
from detr_jax.inference.throughput import Throughput
from detr_jax.inference.tiles import Tiling, detect_in_tiles
from detr_jax.inference.web_images import download_images, refuse_web_addresses
from detr_jax.structures import Detections

LONGEST_STEM = 100  # characters of a drawing's name
READING, MODEL, WRITING = "waiting for images", "model", "drawing"


def choose_ids(paths: list[Path]) -> list[int]:
    """The numbers that the files are named by, as COCO's are, if all are and they differ; else 1, 2, 3, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def choose_names(paths: list[Path], output: Path) -> list[str]:
    """A file name in ``output`` for each drawing: none twice, whatever the case, and none of a file of another kind."""
    existing = list(output.iterdir()) if output.is_dir() else []
    taken, names = {path.name.casefold() for path in existing if not is_drawn(path)}, []
    for path in paths:
        stem, number = path.stem[:LONGEST_STEM], 2
        name = f"{stem}.png"
        while name.casefold() in taken:
            name, number = f"{stem}_{number}.png", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def make_rows(detections: Detections, image_id: int, path: Path) -> list[dict]:
    """Rows for predictions.json."""
    rows = detections.to_coco(image_id)
    named = zip(rows, detections.names, strict=True)
    return [{**row, "category_name": name, "file_name": str(path)} for row, name in named]


def report(found: Found, checked: Checked, inputs: list[str], output: Path) -> None:
    """Says which files were left out, which hold more than one picture, and where the output folder lies."""
    for path, reason in {**found.unusable, **checked.bad}.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    if found.others:
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in found.others).most_common(5)
        some = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
        print(f"files that are no images, passed over: {len(found.others)} ({some})")
    if found.drawn:
        print(f"pictures that predict has drawn, passed over: {len(found.drawn)}, such as {found.drawn[0]}")
    if found.prelabels:
        some = f"{len(found.prelabels)}, such as {found.prelabels[0]}"
        print(f"folders of annotations that predict has written, not searched: {some}")
    if checked.frames:
        some = ", ".join(f"{path} ({count})" for path, count in list(checked.frames.items())[:3])
        print(f"files with several pictures, of which the first is used: {len(checked.frames)}, such as {some}")
    place = output.resolve()
    for entry in inputs:
        folder = Path(entry).expanduser().resolve()
        if folder.is_dir() and (place == folder or folder in place.parents):
            print(f"--output={output} lies in --input={entry}: what predict draws there is not read as input")
    if any(place in path.resolve().parents for path in checked.good):
        print(f"--output={output} holds images of --input: drawings get names that no file there has")


def report_replaced(output: Path, drawings: list[str]) -> None:
    """Says which files of an earlier run are replaced."""
    old = ["predictions.json"] * (output / "predictions.json").exists()
    count = sum((output / name).exists() for name in drawings)
    old += [f"{count} drawing{'' if count == 1 else 's'}"] * (count > 0)
    if old:
        print(f"--output={output} holds results of an earlier run, which are replaced: {' and '.join(old)}")


def find_inputs(args: flags.FlagValues, limits: Limits) -> Found:
    """The files of --input and --list; those at web addresses are downloaded first. Raises UserError."""
    inputs, listed = args.input, [entry for path in args.list for entry in read_image_list(path)]
    if not (inputs or args.list):
        raise UserError("pass --input=FOLDER (or a file, or a pattern), or --list=FILE with a path on each line")
    if not args.download:
        refuse_web_addresses([*inputs, *listed])
    folder = Path(args.output) / "downloads"
    (inputs, refused), (listed, also) = (download_images(entries, folder, limits) for entries in (inputs, listed))
    found = find_images(inputs, listed)
    found.unusable.update({**refused, **also})
    return found


def prepare_output(args: flags.FlagValues, paths: list[Path], names: list[str]) -> None:
    """Makes the output folder. Raises UserError when what --format asks for cannot be written there."""
    output = Path(args.output)
    if args.format and prelabels_folder(args).exists():
        raise UserError(
            f"{prelabels_folder(args)} exists already and may hold corrections: move it, or choose another --output"
        )
    report_replaced(output, names if args.draw else [])
    output.mkdir(parents=True, exist_ok=True)
    if args.format and args.images == "link":
        require_links(paths, output)


def prelabels_folder(args: flags.FlagValues) -> Path:
    """Where --format writes."""
    return Path(args.output) / f"{PRELABELS}{args.format}"


def detect_all(
    args: flags.FlagValues, detector: Detector, images: ImageFiles, threshold: float | np.ndarray, clock: Throughput
) -> Iterator[tuple[int, Detections]]:
    """(row, its detections above the threshold) for every image."""
    if args.tile is None:
        results = detector.over(
            images, args.batch_size, on_wait=lambda seconds: clock.move(seconds, before=MODEL, after=READING)
        )
    else:
        results = detect_tiled(args, detector, images, threshold, clock)
    for row, detections in clock.over(results, MODEL):
        yield row, detections.above(threshold)


def detect_tiled(
    args: flags.FlagValues, detector: Detector, images: ImageFiles, threshold: float | np.ndarray, clock: Throughput
) -> Iterator[tuple[int, Detections]]:
    """The same with every image cut into tiles."""
    tiling, detect = Tiling(args.tile, args.overlap), partial(detector, batch_size=args.batch_size)
    for row in range(len(images)):
        with clock.spending(READING):
            photo = images[row]
        yield row, detect_in_tiles(detect, photo, tiling, threshold)


def main(argv: list[str]) -> int:
    """Detects; returns the exit status."""
    cli.refuse_words(argv[1:])
    args = flags.FLAGS
    hosts.start_hosts()
    first_host = jax.process_index() == 0
    detector = load(args.checkpoint, devices.make_mesh())
    limits, output, clock = Limits(*detector.data.image_limits), Path(args.output), Throughput()
    threshold = args.threshold
    if args.thresholds:
        threshold = read_thresholds(args.thresholds, detector.categories, args.threshold, args.operating_point)
    found = find_inputs(args, limits)
    with clock.spending("checking files"):
        checked = check_images(found.images, limits)
    if first_host:
        report(found, checked, args.input, output)
    paths, bad = checked.good, len(found.unusable) + len(checked.bad)
    if not paths:
        raise UserError(f"none of the {bad + len(found.drawn)} files can be used as an image; nothing was written")
    ids, names, images = choose_ids(paths), choose_names(paths, output), ImageFiles(paths, limits)
    prelabels = Prelabels(paths, ids, images.sizes, detector.categories) if args.format else None
    hosts.from_first_host(partial(prepare_output, args, paths, names))

    rows: dict[int, list[dict]] = {}
    results, silent = detect_all(args, detector, images, threshold, clock), not (first_host and sys.stderr.isatty())
    for row, detections in tqdm(results, total=len(paths), unit="image", disable=silent):
        rows[row] = make_rows(detections, ids[row], paths[row])
        if prelabels:
            prelabels.add(row, detections)
        if args.draw and first_host:
            with clock.spending(WRITING):
                drawing.save(np.asarray(detections.draw(images[row])), output / names[row], software=SOFTWARE)
    predictions = [one for _, rows_of_image in sorted(rows.items()) for one in rows_of_image]
    if first_host:
        with files.replacing(output / "predictions.json") as path:
            path.write_text(json.dumps(predictions, indent=1), encoding="utf-8")
        if prelabels:
            folder = prelabels_folder(args)
            for line in prelabels.write(args.format, folder, args.images):
                print(f"{folder}: {line}")
    hosts.say(clock.summary())
    least = f"the thresholds of {args.thresholds}" if args.thresholds else args.threshold
    hosts.say(f"{len(predictions)} detections above {least} in {len(paths)} images: see {output}")
    return 2 if bad else 0


def define_flags() -> None:
    """The flags of this program."""
    flags.DEFINE_string("checkpoint", None, "A workdir, a checkpoint, a file or a hub name.", required=True)
    flags.DEFINE_multi_string("input", [], "Image file, folder, pattern or web address; may be repeated.")
    flags.DEFINE_multi_string("list", [], "Text file with such an input on each line; may be repeated.")
    flags.DEFINE_bool("download", False, "Fetch inputs that are web addresses, into OUTPUT/downloads.")
    flags.DEFINE_string("output", None, "Folder for predictions.json and the drawings.", required=True)
    flags.DEFINE_enum("format", None, list(TITLES), "Also write OUTPUT/prelabels_FORMAT, annotations to be corrected.")
    flags.DEFINE_enum("images", "link", IMAGE_CHOICES, "How the images come into that folder.")
    flags.DEFINE_integer("tile", None, "Side in pixels of tiles that larger photos are cut into.", lower_bound=32)
    flags.DEFINE_float("overlap", 0.2, "Share of its side that a tile has in common with the next.", 0.0, 0.9)
    flags.DEFINE_float("threshold", 0.5, "Least score of a detection.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_string("thresholds", None, "thresholds.json of analyze errors: a least score for each class.")
    flags.DEFINE_enum("operating_point", KINDS[0], KINDS, "Which of the two in that file.")
    flags.DEFINE_bool("draw", False, "Also write every image with its detections drawn on it.")
    flags.DEFINE_integer("batch_size", 1, "Images at a time.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
