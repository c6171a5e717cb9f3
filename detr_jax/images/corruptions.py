"""Photos made worse in known ways, to see how a detector bears it.

Kinds and strengths are those of ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261), which Michaelis et al. 2019
(arXiv 1907.07484) took over for detection: Gaussian and shot noise, defocus blur, brightness, contrast, JPEG and
pixelation. ``dark`` is our own: the inverse of brightness. Each has five severities.

What is random is drawn from the image's id, the kind and the severity: the same in any batch and on any host.
"""

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from detr_jax.errors import UserError

RGB = UInt8[np.ndarray, "H W 3"]
Unit = Float32[np.ndarray, "H W 3"]  # 0 to 1
SEVERITIES = (1, 2, 3, 4, 5)


def add_gaussian_noise(image: RGB, deviation: float, rng: np.random.Generator) -> RGB:
    """Gaussian noise of this standard deviation, of a range of 1."""
    return _to_bytes(_to_unit(image) + np.float32(deviation) * rng.standard_normal(image.shape, np.float32))


def add_shot_noise(image: RGB, photons: float, rng: np.random.Generator) -> RGB:
    """Poisson noise of a sensor that counts so many photons where the image is white."""
    return _to_bytes(rng.poisson(_to_unit(image) * np.float32(photons)) / photons)


def defocus(image: RGB, lens: tuple[int, float], rng: np.random.Generator) -> RGB:
    """The image through a disk: (its radius in pixels, the deviation of the Gaussian that softens its edge)."""
    radius, softness = lens
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach**2 + reach[:, None] ** 2 <= radius**2).astype(np.float32)
    window = (3, 3) if radius <= 8 else (5, 5)
    disk = cv2.GaussianBlur(disk / disk.sum(), window, softness)
    return _to_bytes(cv2.filter2D(_to_unit(image), -1, disk))


def brighten(image: RGB, change: float, rng: np.random.Generator) -> RGB:
    """The value of HSV is raised by ``change``, of a range of 1; a negative one darkens."""
    hsv = cv2.cvtColor(_to_unit(image), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + change, 0, 1)
    return _to_bytes(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def lower_contrast(image: RGB, kept: float, rng: np.random.Generator) -> RGB:
    """Differences from the mean of each channel shrink to the share ``kept``."""
    mean = image.mean(axis=(0, 1)).astype(np.float32) / 255
    return _to_bytes((_to_unit(image) - mean[None, None]) * np.float32(kept) + mean[None, None])


def compress(image: RGB, quality: int, rng: np.random.Generator) -> RGB:
    """JPEG of this quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def pixelate(image: RGB, share: float, rng: np.random.Generator) -> RGB:
    """The image made smaller to this share of its sides, and large again without interpolation."""
    picture = Image.fromarray(image)
    small = [max(1, int(side * share)) for side in picture.size]
    return np.array(picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX))


def _to_unit(image: RGB) -> Unit:
    return image.astype(np.float32) / 255


def _to_bytes(image: Float[np.ndarray, "H W 3"]) -> RGB:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)  # cut off, as ImageNet-C does


class Kind(NamedTuple):
    """A way to corrupt an image, with its strength at each severity."""

    change: Callable[..., RGB]
    strengths: tuple
    meaning: str


KINDS = {
    "noise": Kind(add_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "Gaussian noise"),
    "shot": Kind(add_shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0), "shot noise"),
    "blur": Kind(defocus, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), "defocus blur"),
    "bright": Kind(brighten, (0.1, 0.2, 0.3, 0.4, 0.5), "brightness"),
    "dark": Kind(brighten, (-0.1, -0.2, -0.3, -0.4, -0.5), "darkness"),
    "contrast": Kind(lower_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "low contrast"),
    "jpeg": Kind(compress, (25, 18, 15, 10, 7), "JPEG compression"),
    "pixelate": Kind(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), "pixelation"),
}


class Corruption(NamedTuple):
    """One kind at one severity; call it with an image and its id."""

    kind: str
    severity: int  # 1 to 5

    def __call__(self, image: RGB, image_id: int) -> RGB:
        """A corrupted copy of the same shape."""
        kind = KINDS[self.kind]
        seed = [zlib.crc32(self.kind.encode()), self.severity, image_id % 2**64]
        return kind.change(image, kind.strengths[self.severity - 1], np.random.default_rng(seed))


def read_corruptions(kinds: str, severities: str) -> list[Corruption]:
    """What ``--corrupt=noise,blur`` (or ``all``) and ``--severity=1..5`` (or ``3`` or ``1,3,5``) ask for, in order.

    Raises UserError for what cannot be understood.
    """
    names = list(KINDS) if kinds == "all" else list(dict.fromkeys(name.strip() for name in kinds.split(",")))
    for name in names:
        if name not in KINDS:
            raise UserError(f"--corrupt does not know {name!r}; choose from all, {', '.join(KINDS)}")
    chosen: set[int] = set()
    try:
        for part in severities.split(","):
            first, _, last = part.partition("..")
            chosen |= set(range(int(first), int(last or first) + 1)) if abs(int(last or first)) < 10 else {0}
    except ValueError:
        chosen = set()
    if not chosen or not chosen <= set(SEVERITIES):
        raise UserError(f"--severity={severities} is not understood: pass 1..5, or some of it such as 3 or 1,3,5")
    return [Corruption(name, severity) for name in names for severity in sorted(chosen)]
