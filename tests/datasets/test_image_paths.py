"""Which file an image is: one of its own, inside the folder."""

import pytest

from detr_jax.datasets import defects
from detr_jax.datasets.image_paths import match_images


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a.jpg", "sub/b.jpg", "shot.jpg", "caf\u00e9.jpg", "u\u0308.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/c.jpg").touch()
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "linked").symlink_to(tmp_path / "beside")
    (folder / "inner.jpg").symlink_to(folder / "a.jpg")
    return folder


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/b.jpg", "sub/b.jpg"),
        ("sub\\b.jpg", "sub/b.jpg"),
        ("./sub/../a.jpg", "./sub/../a.jpg"),
        ("../images/a.jpg", "../images/a.jpg"),
        ("inner.jpg", "inner.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),  # the same text, composed or not
        ("\u00fc.jpg", "u\u0308.jpg"),
        ("/home/somebody/a.jpg", "a.jpg"),
        ("C:\\data\\a.jpg", "a.jpg"),
        ("..\\..\\upload\\4\\shot.jpg", "shot.jpg"),
    ],
)
def test_paths_of_other_machines_are_found_by_their_base_name(images, name, path):
    found = match_images(images, [name], [1])
    assert found.paths[0].samefile(images / path) and not found.defects and not found.missing


@pytest.mark.parametrize("name", ["../secret.jpg", "{}/secret.jpg", "link.jpg", "linked/c.jpg", "sub/../../secret.jpg"])
def test_a_file_outside_is_refused_by_name(images, name):
    name = name.format(images.parent)
    found = match_images(images, [name, "a.jpg"], [1, 2])
    assert found.paths == [None, images / "a.jpg"] and not found.missing
    (defect,) = found.defects
    assert defect.kind == defects.OUTSIDE and defect.stops and "image 1: " in defect.where[0]
    assert match_images(images, [name], [1], allow_outside=True).paths[0].is_file()


def test_the_folder_itself_may_be_a_link(images, tmp_path):
    (tmp_path / "other").symlink_to(images)
    assert not match_images(tmp_path / "other", ["a.jpg", "sub/b.jpg"], [1, 2]).defects


@pytest.mark.parametrize("name", ["no.jpg", "x" * 5000, "a/" * 3000, "..", ".", "sub", "a\nb.jpg", "\u202ejpg.exe"])
def test_what_is_not_there_is_one_short_line(images, name):
    found = match_images(images, [name], [1])
    (missing,) = found.missing
    assert missing.kind == defects.MISSING and missing.where[0].isprintable() and len(missing.where[0]) < 200


def test_two_images_do_not_share_a_file_by_its_base_name(images):
    names = ["upload/4/shot.jpg", "upload/7/shot.jpg", "a.jpg", "far/a.jpg"]
    found = match_images(images, names, [1, 2, 3, 4])
    assert found.paths == [None, None, images / "a.jpg", None] and not found.defects
    (missing,) = found.missing
    assert missing.kind == defects.SAME_BASE_NAME and missing.count == 3 and missing.stops
    assert "image 1: upload/4/shot.jpg, like image 2" in missing.where[0]
    assert "image 4: far/a.jpg, like image 3" in missing.where[2]


@pytest.mark.parametrize("names", [["a.jpg", "./a.jpg"], ["far/a.jpg", "far\\a.jpg"]])
def test_a_file_that_is_listed_twice_is_said(images, names):
    found = match_images(images, names, [1, 2])
    assert None not in found.paths and not found.missing
    (defect,) = found.defects
    assert defect.kind == defects.SAME_FILE and not defect.stops and defect.where[0].startswith("image 2 has ")
