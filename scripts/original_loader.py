"""How many times faster images are prepared here than by the original DETR's loader, on one core.

    PYTHONPATH=. python scripts/original_loader.py --data_dir=data --name=coco [--split=train] [--images=128]

The original's loader is written here after its source (facebookresearch/detr, datasets/coco.py and transforms.py,
util/misc.py): Pillow decodes, flips, resizes, crops and resizes; torch converts to float, normalises and pads. It gets
the same images and views, in batches of two, as one of its processes loads them (--batch_size=16 is our batch and pads
more). Each loader runs in its own process, with its own memory settings. The figures are processor time: medians of
rounds in which the loaders take turns. Needs torch. Prints a row for each ``data.resize``.
"""

import argparse
import io
import multiprocessing
import time

import numpy as np
import torch
from PIL import Image

from detr_jax.batches.inputs import make_reader
from detr_jax.batches.pipeline import load_batch
from detr_jax.batches.plan import make_train_plan, padding_share
from detr_jax.benchmarks import timing
from detr_jax.config import Config, DataConfig
from detr_jax.datasets.split import open_split
from detr_jax.heap import keep_memory

ORIGINAL = "original"
RESIZES = ("host", "fast", "device")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def resize(picture, target, height, width):
    """The original's ``resize``: the picture, and boxes and areas in its ratios."""
    ratio_x, ratio_y = width / picture.width, height / picture.height
    target["boxes"] = target["boxes"] * torch.as_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    target["area"] = target["area"] * (ratio_x * ratio_y)
    return picture.resize((width, height), Image.Resampling.BILINEAR), target


def crop(picture, target, top, left, height, width):
    """The original's ``crop``: boxes are moved and clipped, and those without area are dropped from every field."""
    picture = picture.crop((left, top, left + width, top + height))
    boxes = target["boxes"] - torch.as_tensor([left, top, left, top], dtype=torch.float32)
    corners = torch.min(boxes.reshape(-1, 2, 2), torch.as_tensor([width, height], dtype=torch.float32)).clamp(min=0)
    keep = torch.all(corners[:, 1, :] > corners[:, 0, :], dim=1)
    target["area"] = (corners[:, 1, :] - corners[:, 0, :]).prod(dim=1)
    target["boxes"] = corners.reshape(-1, 4)
    return picture, {name: values[keep] for name, values in target.items()}


def make_original_sample(record, view):
    """One sample of the original: (float tensor [3 H W], target)."""
    picture = Image.open(io.BytesIO(record.image)).convert("RGB")
    boxes = torch.from_numpy(record.boxes_xyxy_pixels)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    target = {"boxes": boxes, "labels": torch.from_numpy(record.labels), "area": area}
    if view.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirror = torch.as_tensor([-1, 1, -1, 1]), torch.as_tensor([picture.width, 0, picture.width, 0])
        target["boxes"] = target["boxes"][:, [2, 1, 0, 3]] * mirror[0] + mirror[1]
    if picture.size != tuple(view.resize[::-1]):
        picture, target = resize(picture, target, *view.resize.tolist())
        picture, target = crop(picture, target, *view.crop.tolist())
    picture, target = resize(picture, target, *view.size.tolist())

    # What torchvision's to_tensor and normalize do.
    levels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
    tensor = levels.to(torch.float32).div(255).clone().sub_(MEAN).div_(STD)
    x0, y0, x1, y1 = target["boxes"].unbind(-1)
    height, width = tensor.shape[-2:]
    center = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
    target["boxes"] = center / torch.tensor([width, height, width, height], dtype=torch.float32)
    return tensor, target


def make_original_batch(samples):
    """The original's ``NestedTensor``: images padded with zeros to the largest, and a mask of the padding."""
    height, width = (max(tensor.shape[axis] for tensor, _ in samples) for axis in (1, 2))
    images = torch.zeros((len(samples), 3, height, width))
    padded = torch.ones((len(samples), height, width), dtype=torch.bool)
    for (tensor, _), image, mask in zip(samples, images, padded, strict=True):
        image[:, : tensor.shape[1], : tensor.shape[2]].copy_(tensor)
        mask[: tensor.shape[1], : tensor.shape[2]] = False
    return images, padded, [target for _, target in samples]


def make_original_loader(split, looks, batch_size: int):
    """A function that prepares all these images as the original does, in random order: it has no buckets."""
    order = np.random.default_rng(0).permutation(len(looks))

    def prepare():
        for start in range(0, len(order), batch_size):
            some = [looks[k] for k in order[start : start + batch_size]]
            make_original_batch([make_original_sample(split[row], view) for row, view in some])

    return prepare


def make_our_loader(split, batches, resize: str):
    """A function that prepares all these batches, in a process that keeps its memory, as our programs do."""
    keep_memory()
    reader = make_reader(DataConfig(resize=resize), split.sizes)
    return lambda: [load_batch(split, planned, reader) and None for planned in batches]


def run_loader(name: str, values: argparse.Namespace, parent) -> None:
    """The process of one loader: sends the number of images, then, for each request, the seconds that they took."""
    torch.set_num_threads(1)
    split = open_split(values.data_dir, values.name, values.split)
    plan = make_train_plan(Config(), split)
    batches = [plan[step] for step in range(max(1, values.images // plan.batch_size))]
    looks = [(row, planned.views.take(i)) for planned in batches for i, row in enumerate(planned.rows)]
    if name == ORIGINAL:
        prepare = make_original_loader(split, looks, values.batch_size)
    else:
        prepare = make_our_loader(split, batches, name)
    prepare()  # afterwards the files are in the page cache
    parent.send((len(looks), padding_share(plan)))
    while parent.recv():
        begin = time.process_time()
        prepare()
        parent.send(time.process_time() - begin)


def main() -> None:
    """Prints milliseconds an image of each loader, and how many times faster it is than the original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--name", default="coco")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=2, help="of the original, a process")
    values = parser.parse_args()
    open_split(values.data_dir, values.name, values.split)  # a mistake is reported once, not by every process
    processes, pipes = multiprocessing.get_context("spawn"), {}
    for name in (ORIGINAL, *RESIZES):
        pipes[name], theirs = processes.Pipe()
        processes.Process(target=run_loader, args=(name, values, theirs), daemon=True).start()
    (images, waste), *_ = [pipe.recv() for pipe in pipes.values()]
    seconds = {name: [] for name in pipes}
    for _ in range(values.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    taken = {name: timing.summarize(each) for name, each in seconds.items()}
    for name, one in taken.items():
        median, least, most = (value / images * 1e3 for value in one)
        faster = taken[ORIGINAL].median / one.median
        print(f"{name:9} {median:6.2f} ms an image ({least:.2f} to {most:.2f}), {faster:4.1f}x")
    print(f"padding: {waste:.1%} of the pixels")


if __name__ == "__main__":
    main()
