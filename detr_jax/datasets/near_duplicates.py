"""Photos that show the same: copies in another size or quality, frames of one scene, augmented copies.

Each image becomes a hash of 128 bits: whether brightness rises to the right, and downwards, on an 8x8 grid (difference
hashes, after N. Krawetz). Images whose hashes differ in at most ``NEAR`` bits belong together. Such hashes agree in at
least one of 16 bytes, so only images that share a byte are compared.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detr_jax.datasets.examination import in_order
from detr_jax.images import decoding

SIDE = 8
# Bits of 128, below the number of bytes. Different photos of COCO and of blood cells differ in 33 or more, mostly 63.
# Copies in half the size or in JPEG quality 30 differ in 15 or fewer, and so do 95 % of those 1.3 times as bright.
NEAR = 15
MOST_PAIRS = 1 << 22  # compared at once
REDUCE = 8  # of a JPEG, which decodes an eighth of its pixels in a fraction of the time
LARGE = 8 * 4 * SIDE  # pixels a side, from which on it is reduced
_exported = re.compile(r"^(.+)\.rf\.[0-9a-zA-Z]{8,}\.\w+$")  # Roboflow names copies of a photo like this


def hash_image(image: bytes) -> UInt64[np.ndarray, " 2"] | None:
    """The hash of an image file; None if it cannot be decoded."""
    try:
        height, width = decoding.image_size(image)
        pixels = None
        if image[:2] == b"\xff\xd8" and min(height, width) >= LARGE:
            pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if pixels is None:
            pixels = cv2.cvtColor(np.asarray(decoding.decode_upright(image)), cv2.COLOR_RGB2GRAY)
    except (ValueError, cv2.error):
        return None
    grid = cv2.resize(pixels, (SIDE + 1, SIDE + 1), interpolation=cv2.INTER_AREA).astype(np.int16)
    rises = np.stack([grid[:-1, 1:] > grid[:-1, :-1], grid[1:, :-1] > grid[:-1, :-1]])
    return np.packbits(rises.reshape(2, -1), axis=1).view(np.uint64)[:, 0]


def hash_files(paths: list[Path | None]) -> tuple[UInt64[np.ndarray, "M 2"], list[bool]]:
    """The hashes of M image files, and which of them have one."""

    def hash_file(row: int) -> UInt64[np.ndarray, " 2"] | None:
        try:
            return paths[row] and hash_image(decoding.read_file(paths[row]))
        except ValueError:
            return None

    found = list(in_order(hash_file, range(len(paths))))
    none = np.zeros(2, np.uint64)
    hashes = np.array([none if one is None else one for one in found], np.uint64).reshape(-1, 2)
    return hashes, [one is not None for one in found]


def group_images(names: list[str], paths: list[Path | None]) -> Int[np.ndarray, " M"]:
    """A number for each of M images, the same for those that belong together.

    Args:
      names: of the images; copies that Roboflow augmented are known by theirs.
      paths: of their files; None where there is none.
    """
    hashes, known = hash_files(paths)
    rows = np.flatnonzero(known)
    pairs = [rows[pair] for pair in near_pairs(hashes[rows])]
    first_of: dict[str, int] = {}
    for row, name in enumerate(names):
        if match := _exported.match(name):
            pairs.append(np.array([[first_of.setdefault(match[1], row), row]]))
    return _connect(len(names), pairs)


def near_pairs(hashes: UInt64[np.ndarray, "M 2"], near: int = NEAR) -> list[Int[np.ndarray, "_ 2"]]:
    """Pairs of rows of which each differs in at most ``near`` < 16 bits; equal hashes are paired with their first."""
    if not len(hashes):
        return []
    unique, first, of_row = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    pairs = [np.column_stack([first[of_row.reshape(-1)], np.arange(len(hashes))])]
    pieces = unique.view(np.uint8)
    for band in range(pieces.shape[1]):
        order = np.argsort(pieces[:, band], kind="stable")
        ends = np.flatnonzero(np.diff(pieces[order, band])) + 1
        for members in np.split(order, ends):
            for left, right in _pairs_of(members):
                is_near = np.bitwise_count(unique[left] ^ unique[right]).sum(axis=1) <= near
                pairs.append(first[np.column_stack([left[is_near], right[is_near]])])
    return pairs


def _pairs_of(members: Int[np.ndarray, " n"]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """All pairs of some rows, in portions."""
    step = max(1, MOST_PAIRS // len(members))
    for start in range(0, len(members) - 1, step):
        left, right = np.meshgrid(
            np.arange(start, min(start + step, len(members))), np.arange(len(members)), indexing="ij"
        )
        later = right > left
        yield members[left[later]], members[right[later]]


def _connect(count: int, pairs: list[Int[np.ndarray, "_ 2"]]) -> Int[np.ndarray, " M"]:
    """The number of the connected part that each of ``count`` rows belongs to."""
    left, right = np.concatenate([np.zeros((0, 2), int), *pairs]).T
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
