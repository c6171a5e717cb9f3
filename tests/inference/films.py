"""Small videos for the tests, of frames that are told apart by their colour."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame of (height, width): its left half as bright as its number says, the right half black."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = 50 + 3 * number
    return pixels


def write_film(path: Path, count: int = 40, size: tuple[int, int] = (48, 64), rate: Fraction = Fraction(30)) -> Path:
    """A video of so many frames; its index comes first, so that the beginning of the file can be read alone."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    noise = np.random.default_rng(0).integers(0, 20, (*size, 3), np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(count):
            pixels = picture(number, size) + np.roll(noise, number, axis=0)  # no frame is free
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def turn(path: Path) -> None:
    """Makes an mp4 one that is to be shown turned by a quarter clockwise, as a phone that is held upright films."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 24 + 8 + 8  # after flags, times, id, length, two reserved words and the layer
    width = struct.unpack(">9i", content[place : place + 36])[0]
    assert width == 1 << 16, "no upright video"
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)


def cut(path: Path, share: float) -> Path:
    """A copy that holds only so much of the file."""
    copy = path.with_name(f"cut_{path.name}")
    content = path.read_bytes()
    copy.write_bytes(content[: round(len(content) * share)])
    return copy
