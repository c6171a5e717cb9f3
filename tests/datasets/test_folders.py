"""Folders of images and annotations: the layouts that are known, and what is said of others."""

import pytest

from detr_jax.datasets.folders import SplitFolder, find_splits, open_folder
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import ground_truth, write_folder

LAYOUTS = {
    "standard": ("annotations/instances_val2017.json", "val2017"),
    "images below": ("annotations/instances_val2017.json", "images/val2017"),
    "without year": ("annotations/instances_val.json", "images/val"),
    "Roboflow": ("valid/_annotations.coco.json", "valid"),
}


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS.values(), ids=LAYOUTS)
def test_known_layouts_are_found(tmp_path, annotations, images):
    for path in (tmp_path / annotations, tmp_path / images / "a.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_splits(tmp_path) == {"val": SplitFolder(tmp_path / images, tmp_path / annotations)}


def test_unknown_folders_are_refused(tmp_path):
    assert find_splits(tmp_path) == {}
    with pytest.raises(UserError, match="is not a folder: give the one that holds the images"):
        source = write_folder(tmp_path, ground_truth())
        open_folder(source._replace(images=tmp_path / "nope"))
