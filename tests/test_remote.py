"""A folder at a URL: whole files are listed, read, written and removed, and every fault is one sentence."""

import pytest

import tests.object_store  # noqa: F401  registers store://
from detr_jax.errors import UserError
from detr_jax.remote import RemoteError, RemoteFolder, is_remote


@pytest.fixture(params=["store", "file", "memory"])
def url(request, tmp_path) -> str:
    return f"{request.param}://{tmp_path}/bucket/run/"


def test_files_come_and_go(url, tmp_path):
    folder, path = RemoteFolder(url), tmp_path / "there"
    assert folder.list() == {} and folder.read("a/b") is None and not folder.is_file()
    folder.write("a/b", b"one")
    folder.write("a/b", b"three")  # in its place
    path.write_bytes(b"12")
    folder.upload(path, "c")
    assert folder.list() == {"a/b": 5, "c": 2} and folder.list("a") == {"a/b": 5}
    assert folder.read("a/b") == b"three" and RemoteFolder(f"{url}c").is_file()
    folder.download("c", tmp_path / "new" / "here")
    assert (tmp_path / "new" / "here").read_bytes() == b"12"
    folder.remove("a/b")
    folder.remove("a/b")  # it is gone: that is enough
    assert folder.list() == {"c": 2} and RemoteFolder(url).list() == {"c": 2}


def test_a_file_that_has_gone_here_is_no_fault_of_the_storage(url, tmp_path):
    with pytest.raises(FileNotFoundError):
        RemoteFolder(url).upload(tmp_path / "nothing", "c")


def test_a_failing_storage_is_one_sentence(tmp_path):
    folder = RemoteFolder(f"store://{tmp_path}/run")
    folder.write("a", b"1")
    (tmp_path / "offline").touch()
    calls = [
        lambda: folder.list(),
        lambda: folder.read("a"),
        lambda: folder.write("a", b"2"),
        lambda: folder.upload(tmp_path / "offline", "b"),
        lambda: folder.download("a", tmp_path / "copy"),
        lambda: folder.remove("a"),
        lambda: folder.is_file(),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match=f"cannot .* store://{tmp_path}/run .the storage is offline.$"):
            call()
    assert not (tmp_path / "copy").exists()


def test_what_cannot_be_opened_says_what_is_missing():
    with pytest.raises(UserError, match="cannot open nonsense://bucket/run .Protocol not known: nonsense"):
        RemoteFolder("nonsense://bucket/run")


def test_urls_are_told_from_paths(tmp_path):
    assert is_remote("gs://bucket/run") and not is_remote(tmp_path) and not is_remote("runs/a:b")
