"""Videos: read frame by frame as a player shows them, and written with what is drawn on their frames. Needs PyAV."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from detr_jax import files
from detr_jax.errors import UserError
from detr_jax.images.decoding import LIMITS, RGB, Limits

SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".ogv",
    ".3gp", ".3g2", ".mts", ".m2ts", ".vob", ".mxf",
}  # fmt: skip
STARTS = {0: (b"\x1aE\xdf\xa3", b"FLV\x01", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\1\xba", b"\0\0\1\xb3"), 4: (b"ftyp",)}
ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qmin": "2", "qmax": "5"}}  # the first there is
TICK = Fraction(1, 60_000)  # of a second: times of frames are written in it; MPEG-4 allows no finer one
MISSING = 0.5  # seconds that a complete video may end before it says


class Frame(NamedTuple):
    """One picture of a video."""

    number: int  # counted from 0
    seconds: float  # after the first one
    pixels: RGB  # upright


def is_video(start: bytes, suffix: str) -> bool:
    """Whether a file is a video: by its first bytes, or by a suffix in lower case."""
    if start.startswith(b"RIFF"):
        return start[8:11] == b"AVI"
    return suffix in SUFFIXES or any(start[place:].startswith(signs) for place, signs in STARTS.items())


class Video:
    """A video file that can be read.

    Attributes:
      path: of the file.
      rate: frames a second, on average.
      count: how many frames it says that it has; None if it does not.
      problem: after the last frame: why some could not be read; "" if all could.

    Raises ValueError, which says why it cannot be used, and UserError when PyAV is missing.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS):
        self._av = load_av()
        self.path, self.problem = path, ""
        try:
            with self._av.open(os.fspath(path)) as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise ValueError("it holds no video")
                self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
                self.count = stream.frames or None
                self._seconds = _stated_seconds(container, stream)
                width, height = stream.width, stream.height
        except (self._av.FFmpegError, OSError) as error:
            raise ValueError(f"it cannot be read as a video ({error.strerror})") from error
        if not width or not height:
            raise ValueError("it is damaged: no frame can be read")
        if width * height > limits.pixels:
            raise ValueError(f"its frames have {width}x{height} pixels, more than {limits.pixels:,} (image_limits)")

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """The first frame and every so many-th one after it; one at a time is held. Sets ``problem`` at the end."""
        lost = number = 0
        start, end, self.problem = None, None, ""
        with self._av.open(os.fspath(self.path)) as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            for packet in self._packets(container, stream):
                try:
                    decoded = packet.decode()
                except self._av.FFmpegError:
                    lost += 1
                    continue
                for frame in decoded:
                    time = float(number / self.rate) if frame.time is None else frame.time
                    start = time if start is None else start
                    end = time - start + float(1 / self.rate)
                    lost += bool(frame.is_corrupt)
                    if number % every == 0:
                        yield Frame(number, time - start, _upright(frame))
                    number += 1
        self.problem = self._judge(number, lost, end)

    def _packets(self, container, stream):
        """What the file holds, up to where it cannot be read further."""
        try:
            yield from container.demux(stream)
        except (self._av.FFmpegError, OSError):
            self.problem = "it cannot be read to its end"

    def _judge(self, frames: int, lost: int, end: float | None) -> str:
        if end is None:
            return "it is damaged: no frame can be read"
        if self._seconds is not None and end < self._seconds - max(MISSING, 2 / self.rate):
            return f"it is cut off: {end:.1f} of {self._seconds:.1f} seconds can be read"
        if lost:
            return f"it is damaged: {lost} of {frames + lost} frames cannot be read, or not completely"
        return self.problem


def open_videos(paths: list[Path], limits: Limits = LIMITS) -> tuple[list[Video], dict[Path, str]]:
    """The videos that can be read, and which cannot, with the reason. Raises UserError when PyAV is missing."""
    videos, unreadable = [], {}
    for path in paths:
        try:
            videos.append(Video(path, limits))
        except ValueError as error:
            unreadable[path] = str(error)
    return videos, unreadable


def load_av() -> ModuleType:
    """PyAV. Raises UserError when it is not installed, or too old."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise UserError(f"videos are read with PyAV, which cannot be imported ({error}): pip install av") from error
    if not hasattr(av.VideoFrame, "rotation"):
        raise UserError(f"videos are read with PyAV 15 or newer; this is {av.__version__}: pip install --upgrade av")
    return av


def _stated_seconds(container, stream) -> float | None:
    """How long the video is by what its file says, if that is known of its pictures alone."""
    if container.format.name == "avi" and stream.frames:
        return float(stream.frames / stream.average_rate)
    if stream.duration:
        return float(stream.duration * stream.time_base)
    hours, *rest = stream.metadata.get("DURATION", "").split(":")  # Matroska
    try:
        return int(hours) * 3600 + int(rest[0]) * 60 + float(rest[1])
    except (ValueError, IndexError):
        return None


def _upright(frame) -> RGB:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


class VideoWriter:
    """Puts frames into an mp4, in H.264 or, where that cannot be written, in MPEG-4; ``writing_video`` makes one."""

    def __init__(self, container, rate: Fraction):
        self._av, self._container, self._rate = load_av(), container, rate
        self._stream, self._last = None, -1

    def add(self, pixels: RGB, seconds: float) -> None:
        """Shows a picture from this moment on. All have the size of the first one; odd sides lose a pixel."""
        if self._stream is None:
            self._start(pixels.shape[1] // 2 * 2, pixels.shape[0] // 2 * 2)
        even = np.ascontiguousarray(pixels[: self._stream.height, : self._stream.width])
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(round(seconds / TICK), self._last + 1)
        frame.pts, frame.time_base = self._last, TICK
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Writes what the encoder holds back."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    def _start(self, width: int, height: int) -> None:
        name = next(name for name in ENCODERS if name in self._av.codecs_available)
        self._stream = self._container.add_stream(name, rate=self._rate, options=dict(ENCODERS[name]))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = TICK


@contextmanager
def writing_video(path: Path, rate: Fraction, software: str) -> Iterator[VideoWriter]:
    """Yields a writer of an mp4, which is at ``path`` when the block ends without an error.

    Args:
      rate: frames a second, on average.
      software: the program that made it, for ``made_by``.
    """
    with files.replacing(path) as sibling:
        with load_av().open(os.fspath(sibling), mode="w", options={"movflags": "+faststart"}) as container:
            writer = VideoWriter(container, rate)
            yield writer
            writer.finish()
        with sibling.open("ab") as file:
            file.write(_mark(software))


def _mark(software: str) -> bytes:
    """The last part of a file that this program has written: free space to every player."""
    return (8 + len(software)).to_bytes(4, "big") + b"free" + software.encode()


def made_by(path: Path, software: str) -> bool:
    """Whether a video was written by this program. Raises OSError when it cannot be read."""
    mark = _mark(software)
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(mark), 0))
        return file.read() == mark
