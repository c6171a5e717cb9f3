"""What the dataset program says about odd data: the same in every verb, in one sentence, whatever the locale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
NAMES = ["Ba$$in_{^", "日本 \u202eevil\nline\x1b[31m"]


def dataset(*arguments: object, locale: str = "C.UTF-8") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "detr_jax.dataset", *map(str, arguments)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict" if locale == "ascii" else "utf-8"}
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment, encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    for split, first in (("train", 1), ("valid", 11)):
        (tmp_path / "root" / split).mkdir(parents=True)
        images = [{"id": i, "file_name": f"{i}.png", "height": None, "width": 0} for i in (first, first + 1)]
        for image in images:
            Image.new("RGB", (40, 30), (image["id"], 0, 0)).save(tmp_path / "root" / split / image["file_name"])
        rows = [
            {"id": "u", "image_id": i, "category_id": k, "bbox": [k, 2, 20, 10], "area": None}
            for i in (first, first + 1)
            for k in (1, 2)
        ]
        content = {
            "images": images,
            "annotations": rows,
            "categories": [{"id": k + 1, "name": NAMES[k]} for k in (0, 1)],
        }
        (tmp_path / "root" / split / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path / "root"


@pytest.mark.parametrize("locale", ["C.UTF-8", "ascii"])
def test_names_are_data(root, tmp_path, locale):
    data = ("--name=odd", f"--data_dir={tmp_path}")
    for arguments in (
        ("check", f"--root={root}"),
        ("prepare", f"--root={root}", *data),
        ("check", *data),
        ("stats", *data),
    ):
        done = dataset(*arguments, locale=locale)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "Ba$$in_{^" in done.stdout and "\\u202eevil\\nline\\x1b[31m" in done.stdout
    table = json.loads((tmp_path / "odd/1.0.0/categories.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in table] == NAMES


def test_every_verb_says_the_same_of_what_stops(root, tmp_path):
    (root / "valid/11.png").write_bytes((root / "train/1.png").read_bytes())
    (root / "train/2.png").write_bytes((root / "train/2.png").read_bytes()[:-30])
    kinds = ["train: STOPS: image that cannot be used: 1 (image 2 (2.png): it is truncated"]
    kinds += ["val: warning: the same picture in another split: 1 (image 11 (11.png) is image 1 (1.png) of train)"]
    checked = dataset("check", f"--root={root}")
    prepared = dataset("prepare", f"--root={root}", "--name=odd", f"--data_dir={tmp_path}")
    for done in (checked, prepared):
        assert done.returncode == 1
        assert all(kind in done.stdout for kind in kinds), done.stdout
    assert prepared.stderr.count("\n") == 1 and "--skip_broken" in prepared.stderr
    done = dataset("prepare", f"--root={root}", "--name=odd", f"--data_dir={tmp_path}", "--skip_broken")
    assert done.returncode == 0 and "train: 1 images (0 empty), 1 missing" in done.stdout


def test_what_is_damaged_after_preparing_is_listed(root, tmp_path):
    data = ("--name=odd", f"--data_dir={tmp_path}")
    assert dataset("prepare", f"--root={root}", *data).returncode == 0
    (shard,) = (tmp_path / "odd/1.0.0").glob("odd-train*")
    shard.write_bytes(shard.read_bytes()[:100])
    (tmp_path / "odd/1.0.0/index_val.npz").unlink()
    done = dataset("check", *data)
    assert done.returncode == 1 and done.stderr == ""
    assert f"odd: {shard.name} has 100 bytes instead of" in done.stdout
    assert "odd: index_val.npz is missing" in done.stdout
    assert f"python -m detr_jax.dataset prepare --name=odd --data_dir={tmp_path}" in done.stdout
    done = dataset("show", *data, f"--output={tmp_path}/grid.png")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "images 1 to 2 of split train" in done.stderr
