"""Damaged and hostile files of weights end in one sentence: nothing is unpickled, nothing takes much memory."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.weights import torch_names
from detr_jax.weights.containers import read_tensors
from detr_jax.weights.sources import load_weights
from tests.weights.small_models import random_arrays, small_model, write

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.ones((3, 4))),
          "c": np.float32(3)}  # fmt: skip


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def npy(header: dict, content: bytes) -> bytes:
    text = repr(header).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def archive(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_as_numpy_reads_it(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    tensors, settings = read_tensors(tmp_path / "a.npz")
    assert settings == {} and tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == np.shape(array)
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("shape", [(10**12,), (10**9, 10**9), (-1,), (2**62, 4), (0, -3)], ids=str)
def test_an_absurd_header_takes_no_memory(shape, tmp_path):
    path = archive(
        tmp_path / "a.npz", {"a.npy": npy({"descr": "<f4", "fortran_order": False, "shape": shape}, b"1234")}
    )
    with pytest.raises(UserError, match="a.npz is damaged .*does not have the"):
        load_weights(path)


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    member = npy({"descr": "|u1", "fortran_order": False, "shape": (300_000_000,)}, bytes(300_000_000))
    with pytest.raises(UserError, match="claim to hold 300,000,"):
        load_weights(archive(tmp_path / "a.npz", {"a.npy": member}, zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="claim to hold 300,000,"):
        load_weights(archive(tmp_path / "a.pth", {"archive/data.pkl": member}, zipfile.ZIP_DEFLATED))


def test_every_cut_and_every_flipped_bit_of_a_directory_is_one_sentence(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", **ARRAYS)
    whole = (tmp_path / "whole.npz").read_bytes()
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    for place in range(0, len(whole), 3):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    for content in damaged:
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(UserError) as raised:
            load_weights(tmp_path / "cut.npz")  # a whole one holds no detector either
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("header", [2**62, 2**31, 50_000_000, 0, 3])
def test_the_header_of_safetensors_is_looked_at_first(header, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", header) + b"{}" + bytes(100))
    with pytest.raises(UserError, match="a.safetensors is not a whole safetensors file"):
        load_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    arrays = random_arrays(small_model(), 91)
    tensors = {key: array.astype(np.float64) for key, array in
               torch_names.to_there(arrays, torch_names.ORIGINAL).items()}  # fmt: skip
    tensors["class_embed.weight"][3, 4] = value
    with pytest.raises(UserError, match="class_head/kernel holds NaN, infinite or complex values"):
        load_weights(write(tmp_path / "a.safetensors", tensors))


def test_nothing_is_unpickled(tmp_path):
    """With or without PyTorch at hand: each of these would make a folder."""
    folder = tmp_path / "made"
    code = pickle.dumps({"model": Bomb(folder)}, protocol=2)
    objects = io.BytesIO()
    np.save(objects, np.array([Bomb(folder)], object), allow_pickle=True)
    (tmp_path / "old.pth").write_bytes(code)
    (tmp_path / "new.pkl").write_bytes(pickle.dumps(Bomb(folder), protocol=4))
    archive(tmp_path / "zip.pth", {"archive/data.pkl": code, "archive/version": b"3\n"})
    archive(tmp_path / "objects.npz", {"a.npy": objects.getvalue()})
    archive(tmp_path / "pickle.npz", {"a.npy": code})
    for name in ("old.pth", "new.pkl", "zip.pth", "objects.npz", "pickle.npz"):
        with pytest.raises(UserError) as raised:
            load_weights(tmp_path / name)
        assert name in str(raised.value) and "\n" not in str(raised.value) and not folder.exists()
    pickle.loads(code)
    assert folder.is_dir()  # so it would have done
