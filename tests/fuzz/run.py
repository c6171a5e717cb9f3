"""Runs damaged inputs of one kind: ``python -m tests.fuzz.run KIND COUNT SEED FOLDER``; prints what came of each.

Every outcome must be a right result or one sentence. A case that takes over ten seconds is killed by its alarm.
"""

import collections
import json
import random
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from detr_jax.datasets.folders import SplitFolder
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError
from detr_jax.images.decoding import decode
from detr_jax.weights.foreign import read_foreign
from tests.fuzz import mutations

SECONDS = 10


def try_annotations(rng: random.Random, folder: Path) -> None:
    """Prepares a damaged annotation file; what is accepted can be opened, read, and scored against itself."""
    images = folder / "images"
    if not images.is_dir():
        images.mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.jpg")
    path = folder / "annotations.json"
    path.write_bytes(mutations.damage_annotations(mutations.sound_annotations([f"{n}.jpg" for n in range(3)]), rng))
    shutil.rmtree(folder / "data", ignore_errors=True)
    prepare_dataset({"train": SplitFolder(images, path)}, folder / "data", "fuzz", skip_missing=True)
    split = open_split(folder / "data", "fuzz", "train")
    truth = split.ground_truth()
    known = set(split.categories.ids)
    assert all(isinstance(name, str) and name for name in split.categories.names)
    assert len(split.categories.ids) == len(known)
    for annotation in truth["annotations"]:
        numbers = [*annotation["bbox"], annotation["area"]]
        assert all(isinstance(n, int | float) and np.isfinite(n) for n in numbers), annotation
        assert annotation["category_id"] in known and annotation["iscrowd"] in (0, 1), annotation
    for row in range(len(split)):
        record = split[row]
        assert np.isfinite(record.boxes_xyxy_pixels).all()
        assert (record.boxes_xyxy_pixels >= 0).all() and (record.boxes_xyxy_pixels <= (40, 32, 40, 32)).all()


def try_image(rng: random.Random, folder: Path) -> None:
    """Decodes a damaged image file."""
    kind = rng.choice(("JPEG", "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"))
    data = mutations.damage_bytes(mutations.sound_image(kind, rng), rng)
    try:
        pixels = decode(data)
    except ValueError as error:
        raise UserError(str(error)) from error
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def try_weights(rng: random.Random, folder: Path) -> None:
    """Reads a damaged file of weights."""
    kind = rng.choice(("npz", "safetensors"))
    path = folder / f"weights.{kind}"
    path.write_bytes(mutations.damage_bytes(mutations.sound_weights(kind), rng, head=400))
    found = read_foreign(path)
    assert all(np.isfinite(array).all() for array in found.arrays.values())


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "annotations": try_annotations,
    "images": try_image,
    "weights": try_weights,
}


def outcome_of(case: Callable[[], None]) -> str:
    """ "right", "refused" with one sentence, or what went wrong."""
    signal.alarm(SECONDS)
    try:
        case()
    except UserError as error:
        message = str(error)
        return "refused" if message.strip() and "\n" not in message and len(message) < 2000 else f"message {message!r}"
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
    return "right"


def peak_megabytes() -> float:
    """Most memory this program has held, from Linux; ``ru_maxrss`` would count the process that started it too."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main(kind: str, count: str, seed: str, folder: str) -> None:
    """Prints a JSON object: outcomes, failures with their numbers, and the peak of memory in MB."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", module="PIL")  # as every program does
    outcomes, failures = collections.Counter(), {}
    for number in range(int(count)):
        rng = random.Random(f"{kind} {seed} {number}")
        said = outcome_of(lambda rng=rng: KINDS[kind](rng, place))
        outcomes[said if said in ("right", "refused") else "failed"] += 1
        if said not in ("right", "refused"):
            failures[number] = said
    print(json.dumps({"outcomes": outcomes, "failures": failures, "megabytes": peak_megabytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
