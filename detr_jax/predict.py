"""Finds objects in images and videos.

    python -m detr_jax.predict --checkpoint=runs/cells --input=photos/ --output=found --draw

Writes ``predictions.json`` (COCO results format, with file and class names); with --draw, every image with its
detections; with --attention, where the model looks; with --format, a folder of annotations to be corrected by hand.
With --tile, large photos are cut for the sake of small objects. Images are seen upright, as a viewer shows them:
their EXIF rotation is applied, and boxes are in pixels of that upright image. Of animated and multi-page files the
first frame is taken.

Folders are searched through for whatever is an image. A file that looks like one but cannot be used is listed and
left out; the exit status is then 2. Other files are counted. Pictures that this program has drawn and folders of
annotations that it has written are never read again, and none of your files is overwritten; results of an earlier run
in the same output folder are, and this is said. Videos are taken where they are named (--input=clip.mp4), if PyAV is
installed.

Runs on every device, and on several hosts like training; the first host prints and writes.
"""

import contextlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from detr_jax import cli, devices, drawing, files, hosts
from detr_jax.datasets.conversion import IMAGE_CHOICES, require_links
from detr_jax.datasets.layouts import TITLES
from detr_jax.errors import UserError
from detr_jax.images.decoding import RGB, Limits
from detr_jax.inference.attention import Attended
from detr_jax.inference.attention_pictures import draw_attention
from detr_jax.inference.detector import Detector, load
from detr_jax.inference.drawing_names import Names, name_drawings
from detr_jax.inference.folders_of_images import (
    PRELABELS,
    SOFTWARE,
    Checked,
    Found,
    check_images,
    find_images,
)
from detr_jax.inference.image_files import ImageFiles
from detr_jax.inference.image_lists import read_image_list
from detr_jax.inference.prelabels import Prelabels
from detr_jax.inference.thresholds import KINDS, read_thresholds
from detr_jax.inference.throughput import Throughput
from detr_jax.inference.tiles import Tiling, detect_in_tiles
from detr_jax.inference.videos import Frame, Video, open_videos, writing_video
from detr_jax.inference.web_images import download_images, refuse_web_addresses
from detr_jax.spelling import count
from detr_jax.structures import Detections

READING, MODEL, WRITING = "waiting for images", "model", "drawing"


def choose_ids(paths: list[Path]) -> list[int]:
    """The numbers that the files are named by, as COCO's are, if all are and they differ; else 1, 2, 3, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


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
        some = ", ".join(f"{number} {suffix}" for suffix, number in suffixes)
        print(f"files that are no images, passed over: {len(found.others)} ({some})")
    if found.drawn:
        print(f"pictures and videos that predict has drawn, passed over: {len(found.drawn)}, such as {found.drawn[0]}")
    if found.unasked:
        example = f"--input={found.unasked[0]}"
        print(f"videos in folders, passed over: {len(found.unasked)}; name them to take them, such as {example}")
    if found.prelabels:
        some = f"{len(found.prelabels)}, such as {found.prelabels[0]}"
        print(f"folders of annotations that predict has written, not searched: {some}")
    if checked.frames:
        some = ", ".join(f"{path} ({number})" for path, number in list(checked.frames.items())[:3])
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
    drawn = sum((output / name).exists() for name in drawings)
    old += [count(drawn, "drawing")] * (drawn > 0)
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
    for flag in ("attention", "format"):
        if args[flag].value and found.videos:
            raise UserError(f"--{flag} is for images; leave it out, or leave out the video {found.videos[0]}")
    return found


def prepare_output(args: flags.FlagValues, paths: list[Path], names: Names) -> None:
    """Makes the output folder. Raises UserError when what --format asks for cannot be written there."""
    output = Path(args.output)
    if args.format and prelabels_folder(args).exists():
        raise UserError(
            f"{prelabels_folder(args)} exists already and may hold corrections: move it, or choose another --output"
        )
    drawn = [*names.drawings, *names.videos] if args.draw else []
    report_replaced(output, [*drawn, *names.attention] if args.attention else drawn)
    output.mkdir(parents=True, exist_ok=True)
    if args.format and args.images == "link":
        require_links(paths, output)


def prelabels_folder(args: flags.FlagValues) -> Path:
    """Where --format writes."""
    return Path(args.output) / f"{PRELABELS}{args.format}"


class Job(NamedTuple):
    """What every part of a run needs."""

    args: flags.FlagValues
    detector: Detector
    threshold: float | np.ndarray
    output: Path
    clock: Throughput
    is_first: bool  # of the hosts, which writes and prints

    def bar(self, results: Iterable, total: int | None, unit: str) -> Iterable:
        """The results with a progress bar, on a terminal."""
        return tqdm(results, total=total, unit=unit, disable=not (self.is_first and sys.stderr.isatty()))


def make_job(args: flags.FlagValues) -> Job:
    """Loads the detector. Raises UserError."""
    if args.attention and args.tile:
        raise UserError("--attention shows where the model looks in whole photos; leave out --tile")
    hosts.start_hosts()
    detector, threshold = load(args.checkpoint, devices.make_mesh()), args.threshold
    if args.thresholds:
        threshold = read_thresholds(args.thresholds, detector.categories, args.threshold, args.operating_point)
    return Job(args, detector, threshold, Path(args.output), Throughput(), jax.process_index() == 0)


def detect_all(job: Job, images: ImageFiles) -> Iterator[tuple[int, Detections, Attended | None]]:
    """(row, its detections above the threshold, and with --attention where the model looks) for every image."""
    args, detector = job.args, job.detector

    def on_wait(seconds):
        job.clock.move(seconds, before=MODEL, after=READING)

    if args.attention:
        results = detector.attention_over(images, args.batch_size, on_wait)
    elif args.tile:
        results = ((row, *detect_in_pixels(job, [read(job, images, row)]), None) for row in range(len(images)))
    else:
        results = ((*result, None) for result in detector.over(images, args.batch_size, on_wait=on_wait))
    for row, detections, attention in job.clock.over(results, MODEL):
        yield row, detections.above(job.threshold), attention and attention.above(job.threshold)


def read(job: Job, images: ImageFiles, row: int) -> RGB:
    """The pixels of an image."""
    with job.clock.spending(READING):
        return images[row]


def detect_in_pixels(job: Job, pixels: list[RGB]) -> list[Detections]:
    """What is found in each of these images, in tiles if that is asked for."""
    args = job.args
    if args.tile is None:
        return job.detector(pixels, args.batch_size)
    tiling, detect = Tiling(args.tile, args.overlap), partial(job.detector, batch_size=args.batch_size)
    return [detect_in_tiles(detect, photo, tiling, job.threshold) for photo in pixels]


def detect_in_images(job: Job, paths: list[Path], ids: list[int], images: ImageFiles, names: Names) -> list[dict]:
    """Detects, draws and writes what is asked for; the rows for predictions.json, in the order of the images."""
    args, rows = job.args, {}
    prelabels = Prelabels(paths, ids, images.sizes, job.detector.categories) if args.format else None
    for row, detections, attention in job.bar(detect_all(job, images), len(paths), "image"):
        rows[row] = make_rows(detections, ids[row], paths[row])
        if prelabels:
            prelabels.add(row, detections)
        if job.is_first and (args.draw or attention):
            with job.clock.spending(WRITING):
                if args.draw:
                    drawn = np.asarray(detections.draw(images[row]))
                    drawing.save(drawn, job.output / names.drawings[row], software=SOFTWARE)
                if attention:
                    sheet = draw_attention(images[row], attention)
                    drawing.save(sheet, job.output / names.attention[row], software=SOFTWARE)
    if prelabels and job.is_first:
        folder = prelabels_folder(args)
        for line in prelabels.write(args.format, folder, args.images):
            print(f"{folder}: {line}")
    return [one for _, rows_of_image in sorted(rows.items()) for one in rows_of_image]


def detect_in_frames(job: Job, video: Video) -> Iterator[tuple[Frame, Detections]]:
    """The frames of a video, and what is found in each; as many are read at a time as are detected."""
    frames = video.frames(job.args.every)
    while True:
        with job.clock.spending(READING):
            some = list(itertools.islice(frames, job.args.batch_size))
        if not some:
            return
        found = detect_in_pixels(job, [frame.pixels for frame in some])
        yield from ((frame, one.above(job.threshold)) for frame, one in zip(some, found, strict=True))


def detect_in_video(job: Job, video: Video, name: str, first_id: int) -> tuple[list[dict], int]:
    """Detects and, if asked for, writes the video with its detections; its rows, and how many frames were looked at."""
    rows, looked, every = [], 0, job.args.every
    results = job.clock.over(detect_in_frames(job, video), MODEL)
    with contextlib.ExitStack() as open_files:
        writer = None
        for frame, detections in job.bar(results, video.count and -(-video.count // every), "frame"):
            found = make_rows(detections, first_id + looked, video.path)
            rows += [{**row, "frame": frame.number, "seconds": round(frame.seconds, 3)} for row in found]
            looked += 1
            if job.args.draw and job.is_first:
                with job.clock.spending(WRITING):
                    place = job.output / name
                    writer = writer or open_files.enter_context(writing_video(place, video.rate / every, SOFTWARE))
                    writer.add(np.asarray(detections.draw(frame.pixels)), frame.seconds)
    if video.problem and job.is_first:
        print(f"{'used in part' if looked else 'left out'} {video.path}: {video.problem}", file=sys.stderr)
    return rows, looked


def main(argv: list[str]) -> int:
    """Detects; returns the exit status."""
    cli.refuse_words(argv[1:])
    args = flags.FLAGS
    job = make_job(args)
    limits, clock = Limits(*job.detector.data.image_limits), job.clock
    found = find_inputs(args, limits)
    with clock.spending("checking files"):
        checked = check_images(found.images, limits)
        videos, unreadable = open_videos(found.videos, limits)
    checked.bad.update(unreadable)
    if job.is_first:
        report(found, checked, args.input, job.output)
    paths, bad = checked.good, len(found.unusable) + len(checked.bad)
    if not paths and not videos:
        kind = "an image or a video" if found.videos else "an image"
        raise UserError(f"none of the {bad + len(found.drawn)} files can be used as {kind}; nothing was written")
    films = [video.path for video in videos]
    ids, names, images = choose_ids(paths), name_drawings(paths, films, job.output), ImageFiles(paths, limits)
    hosts.from_first_host(partial(prepare_output, args, paths, names))

    predictions = detect_in_images(job, paths, ids, images, names) if paths else []
    frames, next_id = 0, max(ids, default=0) + 1
    for video, name in zip(videos, names.videos, strict=True):
        rows, looked = detect_in_video(job, video, name, next_id + frames)
        predictions, frames, bad = predictions + rows, frames + looked, bad + bool(video.problem)
    if job.is_first:
        with files.replacing(job.output / "predictions.json") as path:
            path.write_text(json.dumps(predictions, indent=1), encoding="utf-8")
    hosts.say(clock.summary())
    least = f"the thresholds of {args.thresholds}" if args.thresholds else args.threshold
    looked_at = [count(len(paths), "image")] if paths else []
    looked_at += [f"{count(frames, 'frame')} of {count(len(videos), 'video')}"] if videos else []
    hosts.say(f"{len(predictions)} detections above {least} in {' and '.join(looked_at)}: see {job.output}")
    return 2 if bad else 0


def define_flags() -> None:
    """The flags of this program."""
    flags.DEFINE_string("checkpoint", None, "A workdir, a checkpoint, a file or a hub name.", required=True)
    flags.DEFINE_multi_string("input", [], "Image, video, folder, pattern or web address; may be repeated.")
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
    flags.DEFINE_bool("draw", False, "Also write every image and video with its detections drawn on it.")
    flags.DEFINE_bool("attention", False, "Also draw where the model looks, into OUTPUT/attention.")
    flags.DEFINE_integer("every", 1, "Look at every so many-th frame of a video.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Images at a time.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
