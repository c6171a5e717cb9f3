"""Every file of a folder is an image, looks like one, or is counted."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from detr_jax import drawing
from detr_jax.errors import UserError
from detr_jax.images.decoding import Limits
from detr_jax.inference.folders_of_images import SOFTWARE, check_images, find_images, is_drawn

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trip").mkdir()
    for name in ("b.jpg", "a.PNG", "trip/c.webp"):
        Image.fromarray(NOISE).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    return tmp_path


def names(folder, *inputs):
    return [str(path.relative_to(folder)) for path in find_images([str(one) for one in inputs]).images]


def test_images_are_found_in_order_and_once(folder):
    assert names(folder, folder) == ["a.PNG", "b.jpg", "broken.jpg", "trip/c.webp"]
    assert names(folder, folder / "trip/c.webp", folder / "*.jpg", folder) == [
        "trip/c.webp", "b.jpg", "broken.jpg", "a.PNG",
    ]  # fmt: skip
    assert names(folder, folder / "**/c.*") == ["trip/c.webp"]
    assert names(folder, folder / "tr*") == ["trip/c.webp"]  # a pattern may name a folder
    assert names(folder, folder / "broken.jpg") == ["broken.jpg"]  # named: whether it is one shows when it is read
    assert len(names(folder, folder, os.path.relpath(folder))) == 4
    for nothing in ("nowhere", "*.gif", "*.txt", "x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="names no image"):
            find_images([str(folder / nothing)])


def test_a_list_may_name_what_is_not_there(folder):
    found = find_images([str(folder / "b.jpg")], [str(folder / "b.jpg"), "nowhere.jpg", str(folder / "trip")])
    assert [path.name for path in found.images] == ["b.jpg", "c.webp"]
    assert found.unusable == {"nowhere.jpg": "the list names it, but there is no image"}


def test_a_text_is_no_image_but_may_be_a_list(folder):
    found = find_images([str(folder / "notes.txt")])
    assert not found.images and f"--list={folder}/notes.txt" in found.unusable[folder / "notes.txt"]


def test_folders_of_prelabels_are_not_searched_unless_they_are_named(folder):
    (folder / "found/prelabels_yolo/images").mkdir(parents=True)
    drawing.save(NOISE, folder / "found/prelabels_yolo/images/b.jpg")
    found = find_images([str(folder)])
    assert [path.name for path in found.images] == ["a.PNG", "b.jpg", "broken.jpg", "c.webp"]
    assert names(folder, folder / "**/*.jpg") == ["b.jpg", "broken.jpg"]
    assert found.prelabels == [folder / "found/prelabels_yolo"]
    assert len(find_images([str(folder / "found/prelabels_yolo")]).images) == 1


def test_every_readable_format_is_taken_from_a_folder_whatever_its_name(tmp_path):
    files = {"a.jpg": "JPEG", "b.gif": "GIF", "c.ppm": "PPM", "d.jfif": "JPEG", "e.jpe": "JPEG", "f.bmp": "BMP",
             "g.tif": "TIFF", "h.webp": "WEBP", "no_suffix": "PNG", "wrong.txt": "JPEG", "i.heic": "JPEG"}  # fmt: skip
    for name, kind in files.items():
        Image.fromarray(NOISE).save(tmp_path / name, kind)
    found = find_images([str(tmp_path)])
    assert {path.name for path in found.images} == files.keys()
    assert check_images(found.images).bad == {} and not found.others and not found.unusable


def test_what_looks_like_an_image_is_named_and_the_rest_is_counted(tmp_path):
    heic, avif = b"\0\0\0\x18ftypheic" + bytes(40), b"\0\0\0\x18ftypavif" + bytes(40)
    contents = {"f.heic": heic, "phone": heic, "g.avif": avif, "h.psd": b"8BPS", "odd.svg": b"<?xml", "broken.tga": b"",
                "notes.txt": b"P5 is a level", "table.csv": b"BMI,weight", "clip.mp4": b"\0\0\0\x18ftypmp42",
                "._a.jpg": b"\0\x05\x16\x07", "readme": b"", "a.json": b"{}"}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(NOISE).save(tmp_path / "raw.nef", "TIFF")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = find_images([str(tmp_path)])
    assert not found.images
    assert {path.name for path in found.unusable} == {
        "f.heic", "phone", "g.avif", "h.psd", "odd.svg", "broken.tga", "raw.nef", "dangling.jpg",
    }  # fmt: skip
    assert {path.name for path in found.others} == {
        "notes.txt", "table.csv", "._a.jpg", "readme", "a.json", "pipe",
    }  # fmt: skip
    assert [path.name for path in found.unasked] == ["clip.mp4"] and not found.videos
    assert "HEIC" in found.unusable[tmp_path / "f.heic"] and "preview" in found.unusable[tmp_path / "raw.nef"]
    assert "leads nowhere" in found.unusable[tmp_path / "dangling.jpg"]


VIDEOS = {
    "clip.mp4": b"\0\0\0\x18ftypmp42",
    "b.MOV": b"",
    "phone": b"\0\0\0\x18ftypqt  ",
    "c.dat": b"RIFF\0\0\0\0AVI LIST",
}


def test_videos_are_taken_where_they_are_named_or_match(folder):
    for name, content in VIDEOS.items():
        (folder / name).write_bytes(content)
    found = find_images([str(folder)])
    assert {path.name for path in found.unasked} == VIDEOS.keys() and not found.videos
    assert not VIDEOS.keys() & {path.name for path in [*found.images, *found.others, *found.unusable]}
    for inputs in ([folder, folder / "clip.mp4"], [folder / "clip.mp4", folder], [folder / "*.mp4", folder]):
        found = find_images([str(one) for one in inputs])
        assert [path.name for path in found.videos] == ["clip.mp4"]
        assert {path.name for path in found.unasked} == VIDEOS.keys() - {"clip.mp4"}
    found = find_images([str(folder)], [str(folder / "phone")])
    assert [path.name for path in found.videos] == ["phone"] and not found.unusable.get("phone")
    (folder / "films").mkdir()
    shutil.copy(folder / "clip.mp4", folder / "films")
    with pytest.raises(UserError, match=f"holds no image; to take its videos, .*--input={folder}/films/clip.mp4"):
        find_images([str(folder / "films")])


def test_own_drawings_are_known_wherever_they_lie(folder):
    drawing.save(NOISE, folder / "trip/drawn.png", software=SOFTWARE)
    drawing.save(NOISE, folder / "trip/other.png")
    found = find_images([str(folder)])
    assert [path.name for path in found.drawn] == ["drawn.png"] and is_drawn(found.drawn[0])
    assert "other.png" in {path.name for path in found.images} and not is_drawn(folder / "nowhere")


def test_images_are_checked(folder):
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1])]
    for kind in ("gif", "png", "webp", "tif"):
        frames[0].save(folder / f"several.{kind}", save_all=True, append_images=frames[1:])
    (folder / "notes").write_text("no image")
    checked = check_images(find_images([str(folder), str(folder / "notes")]).images)
    assert {path.name for path in checked.bad} == {"broken.jpg", "notes"}
    assert "not an image" in checked.bad[folder / "notes"]
    assert {path.name: count for path, count in checked.frames.items()} == {
        "several.gif": 2, "several.png": 2, "several.webp": 2, "several.tif": 2,
    }  # fmt: skip
    assert len(checked.good) == 7
    assert len(check_images([folder / "b.jpg"], Limits(pixels=5)).bad) == 1
