"""Names of drawings: none twice, and never that of another file."""

from pathlib import Path

import numpy as np

from detr_jax import drawing
from detr_jax.inference.drawing_names import name_drawings
from detr_jax.inference.folders_of_images import SOFTWARE


def test_no_drawing_takes_the_name_of_another_file(tmp_path):
    (tmp_path / "attention").mkdir()
    for name in ("A.png", "clip.mp4", "attention/b.png"):
        (tmp_path / name).write_bytes(b"of the user")
    for name in ("c.png", "attention/c.png"):
        drawing.save(np.zeros((4, 4, 3), np.uint8), tmp_path / name, software=SOFTWARE)  # of an earlier run
    images = [Path(name) for name in ("x/a.jpg", "y/a.png", "b.jpg", "c.jpg", "n" * 300 + ".jpg")]
    names = name_drawings(images, [Path("clip.mov"), Path("z/CLIP.mkv")], tmp_path)
    assert names.drawings == ["a_2.png", "a_3.png", "b.png", "c.png", "n" * 100 + ".png"]
    assert names.attention == [
        f"attention/{name}" for name in ("a.png", "a_2.png", "b_2.png", "c.png", "n" * 100 + ".png")
    ]
    assert names.videos == ["clip_2.mp4", "CLIP_3.mp4"]
