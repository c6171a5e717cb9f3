"""Finds objects in image files: ``python -m detr_jax.predict --checkpoint=C --input=FOLDER --output=DIR [--draw]``.

Writes ``predictions.json`` (COCO results format, with file and class names) and, with --draw, every image with its
detections. Images are seen upright, as a viewer shows them: their EXIF rotation is applied, and boxes are in pixels of
that upright image. A file that is not an image is listed and left out; the exit status is then 2.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from detr_jax import cli, drawing, files
from detr_jax.errors import UserError
from detr_jax.inference.detector import load
from detr_jax.inference.image_files import ImageFiles, find_images, readable
from detr_jax.structures import Detections


def choose_ids(paths: list[Path]) -> list[int]:
    """The numbers that the files are named by, as COCO's are, if all are and they differ; else 1, 2, 3, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def choose_names(paths: list[Path]) -> list[str]:
    """A file name for each drawing; equal ones get a number."""
    names, taken = [], set()
    for path in paths:
        name, number = f"{path.stem}.png", 2
        while name in taken:
            name, number = f"{path.stem}_{number}.png", number + 1
        taken.add(name)
        names.append(name)
    return names


def make_rows(detections: Detections, image_id: int, path: Path) -> list[dict]:
    """Rows for predictions.json."""
    rows = detections.to_coco(image_id)
    named = zip(rows, detections.names, strict=True)
    return [{**row, "category_name": name, "file_name": str(path)} for row, name in named]


def main(argv: list[str]) -> int:
    """Detects; returns the exit status."""
    args = flags.FLAGS
    detector = load(args.checkpoint)
    output = Path(args.output)
    found = find_images(args.input)
    paths, bad = readable(path for path in found if output.resolve() not in path.resolve().parents)
    for path, reason in bad.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    if not paths:
        raise UserError(f"none of the {len(bad)} files can be read as an image; nothing was written")
    ids, names = choose_ids(paths), choose_names(paths)
    output.mkdir(parents=True, exist_ok=True)

    rows: dict[int, list[dict]] = {}
    images = detector.over(ImageFiles(paths), args.batch_size)
    for row, detections in tqdm(images, total=len(paths), unit="image", disable=not sys.stderr.isatty()):
        detections = detections.above(args.threshold)
        rows[row] = make_rows(detections, ids[row], paths[row])
        if args.draw:
            drawing.save(np.asarray(detections.draw(paths[row])), output / names[row])
    predictions = [one for _, rows_of_image in sorted(rows.items()) for one in rows_of_image]
    with files.replacing(output / "predictions.json") as path:
        path.write_text(json.dumps(predictions, indent=1))
    print(f"{len(predictions)} detections above {args.threshold} in {len(paths)} images: see {output}")
    return 2 if bad else 0


def define_flags() -> None:
    """The flags of this program."""
    flags.DEFINE_string("checkpoint", None, "A workdir, a checkpoint, a file or a hub name.", required=True)
    flags.DEFINE_multi_string("input", None, "Image file, folder or pattern; may be repeated.", required=True)
    flags.DEFINE_string("output", None, "Folder for predictions.json and the drawings.", required=True)
    flags.DEFINE_float("threshold", 0.5, "Least score of a detection.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_bool("draw", False, "Also write every image with its detections drawn on it.")
    flags.DEFINE_integer("batch_size", 1, "Images at a time.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
