"""How many times faster images are prepared here than by the original DETR's loader, on one core.

    PYTHONPATH=. python scripts/original_loader.py --data_dir=data --name=coco [--split=train] [--images=128]

The original's loader is written here after its description (facebookresearch/detr, datasets/coco.py and transforms.py,
util/misc.py): Pillow decodes, flips, resizes, crops and resizes; torch makes floats of it, normalises and pads. It gets
the same images and the same views, in the batches of two that a process of it loads (--batch_size=16: as ours, which
pads more). Each way has a process of its own, with its own ways to keep memory. Figures are of processor time, in
turns, medians; needs torch. Prints a row for each ``data.resize``.
"""

import argparse
import io
import multiprocessing
import time

import numpy as np
import torch
from PIL import Image

from configs import detr
from detr_jax import cli
from detr_jax.benchmarks import data, timing
from detr_jax.batches.inputs import RESIZES, chosen
from detr_jax.batches.pipeline import load
from detr_jax.datasets.split import open_split
from detr_jax.training.trainer import make_plan

ORIGINAL = "original"
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def resized(picture, target, height, width):
    """``resize``: the picture, and boxes and areas in its ratios."""
    ratio_x, ratio_y = width / picture.width, height / picture.height
    target["boxes"] = target["boxes"] * torch.as_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    target["area"] = target["area"] * (ratio_x * ratio_y)
    return picture.resize((width, height), Image.Resampling.BILINEAR), target


def cropped(picture, target, top, left, height, width):
    """``crop``: boxes are moved and cut, and those without area leave every field."""
    picture = picture.crop((left, top, left + width, top + height))
    boxes = target["boxes"] - torch.as_tensor([left, top, left, top], dtype=torch.float32)
    corners = torch.min(boxes.reshape(-1, 2, 2), torch.as_tensor([width, height], dtype=torch.float32)).clamp(min=0)
    keep = torch.all(corners[:, 1, :] > corners[:, 0, :], dim=1)
    target["area"] = (corners[:, 1, :] - corners[:, 0, :]).prod(dim=1)
    target["boxes"] = corners.reshape(-1, 4)
    return picture, {name: values[keep] for name, values in target.items()}


def original_image(record, view):
    """One sample: (float tensor [3 H W], target)."""
    picture = Image.open(io.BytesIO(record.image)).convert("RGB")
    boxes = torch.from_numpy(record.boxes_xyxy_pixels)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    target = {"boxes": boxes, "labels": torch.from_numpy(record.labels), "area": area}
    if view.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirror = torch.as_tensor([-1, 1, -1, 1]), torch.as_tensor([picture.width, 0, picture.width, 0])
        target["boxes"] = target["boxes"][:, [2, 1, 0, 3]] * mirror[0] + mirror[1]
    if picture.size != tuple(view.resize[::-1]):
        picture, target = resized(picture, target, *view.resize.tolist())
        picture, target = cropped(picture, target, *view.crop.tolist())
    picture, target = resized(picture, target, *view.size.tolist())

    # What torchvision's to_tensor and normalize do.
    levels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
    tensor = levels.to(torch.float32).div(255).clone().sub_(MEAN).div_(STD)
    x0, y0, x1, y1 = target["boxes"].unbind(-1)
    height, width = tensor.shape[-2:]
    center = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
    target["boxes"] = center / torch.tensor([width, height, width, height], dtype=torch.float32)
    return tensor, target


def original_batch(samples):
    """``NestedTensor``: images in the corner of zeros as large as the largest, and where there is none."""
    height, width = (max(tensor.shape[axis] for tensor, _ in samples) for axis in (1, 2))
    images = torch.zeros((len(samples), 3, height, width))
    padded = torch.ones((len(samples), height, width), dtype=torch.bool)
    for (tensor, _), image, mask in zip(samples, images, padded, strict=True):
        image[:, : tensor.shape[1], : tensor.shape[2]].copy_(tensor)
        mask[: tensor.shape[1], : tensor.shape[2]] = False
    return images, padded, [target for _, target in samples]


def originals(split, looks, batch_size: int):
    """A call that prepares all these images as the original does; it knows no buckets."""
    order = np.random.default_rng(0).permutation(len(looks))

    def prepare():
        for start in range(0, len(order), batch_size):
            some = [looks[k] for k in order[start : start + batch_size]]
            original_batch([original_image(split[row], view) for row, view in some])

    return prepare


def ours(split, batches, resize: str):
    """A call that prepares all these batches, in a process that keeps its memory, as our programs do."""
    cli.keep_memory()
    pictures = chosen(resize, split.sizes)
    return lambda: [load(split, planned, pictures) and None for planned in batches]


def run_way(name: str, values: argparse.Namespace, parent) -> None:
    """The process of one way: says how many images there are, then, each time it is asked, the seconds they took."""
    torch.set_num_threads(1)
    split = open_split(values.data_dir, values.name, values.split)
    plan = make_plan(cli.plain(detr.get_config()), split)
    batches = [plan[step] for step in range(max(1, values.images // plan.batch_size))]
    looks = [(row, planned.views.take(i)) for planned in batches for i, row in enumerate(planned.rows)]
    prepare = originals(split, looks, values.batch_size) if name == ORIGINAL else ours(split, batches, name)
    prepare()  # the files are then in memory
    parent.send((len(looks), data.waste(plan)))
    while parent.recv():
        begin = time.process_time()
        prepare()
        parent.send(time.process_time() - begin)


def main() -> None:
    """Prints milliseconds an image of each, and how many times faster than the original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--name", default="coco")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=2, help="of the original, a process")
    values = parser.parse_args()
    open_split(values.data_dir, values.name, values.split)  # what is wrong with it is said once
    processes, ways = multiprocessing.get_context("spawn"), {}
    for name in (ORIGINAL, *RESIZES):
        ways[name], theirs = processes.Pipe()
        processes.Process(target=run_way, args=(name, values, theirs), daemon=True).start()
    (images, waste), *_ = [way.recv() for way in ways.values()]
    seconds = {name: [] for name in ways}
    for _ in range(values.rounds):
        for name, way in ways.items():
            way.send(True)
            seconds[name].append(way.recv())
    for way in ways.values():
        way.send(False)
    taken = {name: timing.of(each) for name, each in seconds.items()}
    for name, one in taken.items():
        median, least, most = (value / images * 1e3 for value in one)
        faster = taken[ORIGINAL].median / one.median
        print(f"{name:9} {median:6.2f} ms an image ({least:.2f} to {most:.2f}), {faster:4.1f}x")
    print(f"padding: {waste:.1%} of the pixels")


if __name__ == "__main__":
    main()
