"""Videos as they come: several containers, turned, cut off, damaged; and what is written of them."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.images.decoding import Limits
from detr_jax.inference import videos
from detr_jax.inference.videos import Video, is_video, made_by, open_videos, writing_video
from tests.inference.films import CODECS, cut, picture, turn, write_film

KINDS = [suffix for suffix, codec in CODECS.items() if codec in av.codecs_available]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("every", [1, 7])
def test_frames_come_in_order_with_their_times(tmp_path, suffix, every):
    video = Video(write_film(tmp_path / f"a{suffix}", rate=Fraction(30000, 1001)))
    frames = list(video.frames(every))
    assert [frame.number for frame in frames] == list(range(0, 40, every)) and video.problem == ""
    assert video.rate == pytest.approx(30000 / 1001, abs=0.01) and video.count in (40, None)
    for frame in frames:
        assert frame.seconds == pytest.approx(frame.number * 1001 / 30000, abs=2e-3)
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels[:, 4:28].mean() == pytest.approx(picture(frame.number, (48, 64))[0, 0, 0] + 9.5, abs=4)
    assert [frame.number for frame in video.frames(20)] == [0, 20]  # and once more


def test_one_frame_at_a_time_is_held(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(videos, "_upright", lambda frame: made.append(frame) or np.zeros((1, 1, 3), np.uint8))
    frames = Video(write_film(tmp_path / "a.mp4")).frames()
    for number in range(1, 4):
        next(frames)
        assert len(made) == number
    frames.close()


def test_a_turned_video_is_seen_upright(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    turn(path)
    frame = next(Video(path).frames())
    assert frame.pixels.shape == (64, 48, 3)  # what was on the left is at the top
    assert frame.pixels[4:28].mean() > 50 and frame.pixels[36:].mean() < 30


@pytest.mark.parametrize("suffix", KINDS)
def test_of_a_video_that_is_cut_off_the_beginning_is_read(tmp_path, suffix):
    video = Video(cut(write_film(tmp_path / f"a{suffix}", count=60), 0.6))
    frames = list(video.frames())
    assert 20 < len(frames) < 50 and "it is cut off: " in video.problem and "of 2.0 seconds" in video.problem
    assert [frame.number for frame in frames] == list(range(len(frames)))


def test_a_damaged_video_goes_on_after_the_damage(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    place, size = packets[20]
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    video = Video(path)
    frames = list(video.frames())
    assert frames[-1].seconds > 1.2 and len(frames) >= 39
    assert video.problem.startswith("it is damaged: ") and video.problem.endswith("cannot be read, or not completely")


def test_what_is_no_video_is_refused_with_the_reason(tmp_path):
    contents = {"empty.mp4": b"", "text.mp4": b"Dear reader", "start.mp4": b"\0\0\0\x18ftypmp42"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    good = write_film(tmp_path / "good.mp4", count=2)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(silence), *stream.encode()])
    paths = [*(tmp_path / name for name in contents), tmp_path / "sound.mp4", good, tmp_path / "nowhere.mp4"]
    opened, unreadable = open_videos(paths)
    assert [video.path for video in opened] == [good]
    assert unreadable.keys() == set(paths) - {good}
    assert unreadable[tmp_path / "sound.mp4"] == "it holds no video"
    assert all("\n" not in reason and "it cannot be read as a video (" in reason for path, reason in unreadable.items()
               if path.name != "sound.mp4")  # fmt: skip
    with pytest.raises(ValueError, match="64x48 pixels, more than 1,000"):
        Video(good, Limits(pixels=1000))


def test_without_pyav_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="videos are read with PyAV, .*: pip install av$"):
        open_videos([tmp_path / "a.mp4"])


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_what_is_written_is_read_again(tmp_path, monkeypatch, encoder):
    """With odd sides, and frames at uneven times."""
    monkeypatch.setattr(videos, "ENCODERS", {"no such codec": {}, encoder: videos.ENCODERS[encoder]})
    path, seconds = tmp_path / "out/a.mp4", [0.0, 0.04, 0.05, 0.5, 0.5, 1.0]
    with writing_video(path, Fraction(25), "some.program") as writer:
        for number, second in enumerate(seconds):
            writer.add(picture(10 * number, (49, 65)), second)
    assert [one.name for one in path.parent.iterdir()] == ["a.mp4"]
    frames = list(Video(path).frames())
    assert [frame.seconds for frame in frames] == pytest.approx(seconds, abs=1e-3)
    for number, frame in enumerate(frames):
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels[:, 4:28].mean() == pytest.approx(50 + 30 * number, abs=6)
    assert made_by(path, "some.program") and not made_by(path, "other.program")
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == {"libx264": "h264"}.get(encoder, encoder)


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), writing_video(tmp_path / "a.mp4", Fraction(25), "it") as writer:
        writer.add(picture(0, (48, 64)), 0.0)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "start, suffix, wanted",
    [(b"\0\0\0\x18ftypmp42", "", True), (b"\x1aE\xdf\xa3", ".dat", True), (b"RIFF0000AVI LIST", "", True),
     (b"", ".mov", True), (b"RIFF0000WEBPVP8 ", ".webp", False), (b"\xff\xd8\xff", ".jpg", False), (b"", "", False)],
)  # fmt: skip
def test_what_is_a_video(start, suffix, wanted):
    assert is_video(start, suffix) == wanted
