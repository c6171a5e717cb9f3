"""Near-duplicates: copies of photos are found, different photos are not taken for copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from detr_jax.datasets.near_duplicates import NEAR, group_images, hash_image, near_pairs


def encode(image: Image.Image, **choices) -> bytes:
    data = io.BytesIO()
    image.save(data, **({"format": "JPEG", "quality": 75} | choices))
    return data.getvalue()


COPIES = {
    "lower quality": lambda image: encode(image, quality=30),
    "half the size": lambda image: encode(image.resize((image.width // 2, image.height // 2))),
    "as PNG": lambda image: encode(image, format="PNG"),
    "paler": lambda image: encode(ImageEnhance.Contrast(image).enhance(0.7)),
    "another shape": lambda image: encode(image.resize((500, 500))),
    "grey": lambda image: encode(image.convert("L")),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_copies_are_found_and_different_photos_stay_apart(real_data, tmp_path, change):
    originals = sorted((real_data / "coco128/images/train2017").iterdir())[:40]
    paths = list(originals)
    for path in originals:
        with Image.open(path) as image:
            paths.append(tmp_path / path.name)
            paths[-1].write_bytes(change(image.convert("RGB")))
    groups = group_images([str(path) for path in paths], paths)
    assert len(set(groups[:40].tolist())) == 40
    assert (groups[:40] == groups[40:]).mean() >= 0.95


def test_all_near_pairs_are_found():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (300, 2), dtype=np.uint64)
    hashes[150:] = hashes[:150]
    for row in range(150, 300):  # flips some bits of each copy
        for bit in random.choice(128, row % 30, replace=False):
            hashes[row, bit // 64] ^= np.uint64(1 << int(bit % 64))
    distance = np.bitwise_count(hashes[:, None] ^ hashes).sum(-1)
    expected = {(a, b) for a, b in zip(*np.nonzero(distance <= NEAR), strict=True) if a < b}
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes) for pair in pairs.tolist()}
    assert {pair for pair in found if pair[0] != pair[1]} == expected


def test_roboflows_copies_are_known_by_their_names():
    names = [
        "train/a_jpg.rf.0123456789abcdef.jpg",
        "train/a_jpg.rf.fedcba9876543210.jpg",
        "train/b_jpg.rf.00000000ff.jpg",
    ]
    first, second, third = group_images(names, [None] * 3).tolist()
    assert first == second != third


def test_what_is_no_image_has_no_hash():
    assert hash_image(b"nothing") is None and hash_image(b"") is None
    assert group_images([], []).tolist() == []
