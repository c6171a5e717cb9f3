"""A workdir at a URL: what is written here is there, in an order in which any moment is one to go on from."""

import shutil
import time

import pytest

import tests.object_store  # noqa: F401  registers store://
from detr_jax.errors import UserError
from detr_jax.training import remote_lock, remote_workdir
from detr_jax.training.remote_workdir import RemoteWorkdir
from detr_jax.weights.finding import newest_intact
from tests.programs import wait_for
from tests.weights.small_run import write


@pytest.fixture
def url(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("DETR_JAX_CACHE", str(tmp_path / "cache"))
    for module, name, value in [
        (remote_lock, "BEAT", 0.05),
        (remote_lock, "PATIENCE", 0.5),
        (remote_lock, "SETTLED", 0.01),
        (remote_workdir, "PAUSE", 0.05),
        (remote_workdir, "INSIST", 0.5),
    ]:
        monkeypatch.setattr(module, name, value)
    return f"store://{tmp_path}/bucket/run"


@pytest.fixture
def bucket(url, tmp_path):
    return tmp_path / "bucket"


def silent(line: str) -> None:
    pass


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def checkpoint_names(bucket) -> set[str]:
    return {name.split("/")[2] for name in names(bucket) if name.startswith("run/checkpoints/")}


def test_what_is_written_comes_back(url, bucket):
    with RemoteWorkdir(url, silent) as workdir:
        (workdir.folder / "tb").mkdir()
        (workdir.folder / "tb/events").write_bytes(b"1")
        (workdir.folder / "train.log").write_text("one\n")
        wait_for(lambda: (bucket / "run/train.log").exists(), 10)  # while the run goes on
        with (workdir.folder / "train.log").open("a") as log:
            log.write("two\n")
        (workdir.folder / ".curves.1.partial.png").touch()
        workdir.settle()
        assert names(bucket) == {"run/run.lock", "run/tb/events", "run/train.log"}
    assert names(bucket) == {"run/tb/events", "run/train.log"} and not workdir.folder.parent.exists()
    with RemoteWorkdir(url, silent) as workdir:
        assert (workdir.folder / "train.log").read_text() == "one\ntwo\n"
        assert names(workdir.folder) == {"tb/events", "train.log"}


def test_a_folder_that_is_emptied_here_takes_nothing_away_there(url, bucket):
    with RemoteWorkdir(url, silent) as workdir:
        write(workdir.folder / "checkpoints", {10: None})
        (workdir.folder / "train.log").touch()
        workdir.settle()
        before = names(bucket)
        assert "run/checkpoints/10/checksums.json" in before
        shutil.rmtree(workdir.folder)
        workdir.settle()
        assert names(bucket) == before


def test_checkpoints_come_back_with_the_best(url, bucket):
    with RemoteWorkdir(url, silent) as workdir:
        write(workdir.folder / "checkpoints", {10: 0.4, 20: 0.3, 30: 0.2}, keep=1)
        workdir.settle()
        (workdir.folder / "checkpoints/40.orbax-checkpoint-tmp-1").mkdir()
        (workdir.folder / "checkpoints/40.orbax-checkpoint-tmp-1/part").touch()
    assert (bucket / "run/checkpoints/best").read_text() == "10"
    assert checkpoint_names(bucket) == {"10", "30", "best"}
    with RemoteWorkdir(url, silent) as workdir:
        folder = workdir.folder / "checkpoints"
        assert (folder / "best").is_symlink() and (folder / "best").resolve().name == "10"
        assert newest_intact(folder) == 30
        write(folder, {40: 0.9}, keep=1, log={10: 0.4, 30: 0.2})
    assert checkpoint_names(bucket) == {"40", "best"}
    assert (bucket / "run/checkpoints/best").read_text() == "40"


def test_every_moment_of_a_copy_is_one_to_go_on_from(url, bucket, monkeypatch):
    """The storage fails after n files: what is there is the older state or the newer one, and the log goes as far."""
    monkeypatch.setattr(remote_workdir, "PAUSE", 1000.0)
    monkeypatch.setattr(remote_lock, "BEAT", 1000.0)
    with RemoteWorkdir(url, silent) as workdir:
        write(workdir.folder / "checkpoints", {10: None}, keep=1)
        (workdir.folder / "metrics.jsonl").write_text("10\n")
    saved = shutil.copytree(bucket, bucket.with_name("saved"))
    found = set()
    for count in range(200):
        shutil.rmtree(bucket)
        shutil.copytree(saved, bucket)
        workdir = RemoteWorkdir(url, silent).__enter__()
        write(workdir.folder / "checkpoints", {20: None}, keep=1)
        (workdir.folder / "metrics.jsonl").write_text("10\n20\n")
        done = _copy_some(workdir, count)
        workdir._held.close()  # as if it were killed
        shutil.rmtree(workdir.folder)  # another machine goes on
        with RemoteWorkdir(url, silent) as again:
            step = newest_intact(again.folder / "checkpoints", lambda line: pytest.fail(line))
            log = (again.folder / "metrics.jsonl").read_text()
            assert step in (10, 20) and (step == 10 or log == "10\n20\n"), count
            found.add(step)
        if done:
            break
    assert done and found == {10, 20}


def _copy_some(workdir: RemoteWorkdir, count: int) -> bool:
    """Copies until the storage has done ``count`` things; whether that was all."""

    class Full(Exception):
        pass

    left = [count]

    def limited(call):
        def do(*arguments):
            if not left[0]:
                raise Full
            left[0] -= 1
            return call(*arguments)

        return do

    remote = workdir._remote
    names = ("write", "upload", "remove")
    for name in names:
        setattr(remote, name, limited(getattr(remote, name)))
    try:
        workdir._copy_all(workdir._sent)
    except Full:
        return False
    finally:
        for name in names:
            delattr(remote, name)
    return True


def test_what_could_not_be_copied_is_kept_and_copied_by_the_next_start(url, bucket):
    said = []
    with (
        pytest.raises(UserError, match="offline.*is in .*and the same command"),
        RemoteWorkdir(url, said.append) as run,
    ):
        write(run.folder / "checkpoints", {10: None})
        run.settle()
        bucket.with_name("offline").touch()
        write(run.folder / "checkpoints", {20: None})
        (run.folder / "train.log").write_text("twenty\n")
    assert len([line for line in said if "it is tried again" in line]) <= 1
    assert checkpoint_names(bucket) == {"10"}
    bucket.with_name("offline").unlink()
    with RemoteWorkdir(url, said.append) as run:
        assert "copying what is only in" in said[-1]
        assert newest_intact(run.folder / "checkpoints") == 20
        assert (run.folder / "train.log").read_text() == "twenty\n"
    assert checkpoint_names(bucket) == {"10", "20"}


def test_a_fault_that_passes_is_said_once_and_one_that_stays_ends_the_run(url, bucket, monkeypatch):
    said = []
    with pytest.raises(UserError, match="offline"), RemoteWorkdir(url, said.append) as workdir:
        (workdir.folder / "a").touch()
        wait_for(lambda: (bucket / "run/a").exists(), 10)
        bucket.with_name("offline").touch()
        (workdir.folder / "b").touch()
        wait_for(lambda: said, 10)
        time.sleep(0.3)
        assert "offline" in said[0] and "the run goes on" in said[0] and len(said) == 1
        workdir.check()
        bucket.with_name("offline").unlink()
        wait_for(lambda: len(said) == 2, 10)
        assert said[1].endswith("is written again") and (bucket / "run/b").exists()
        monkeypatch.setattr(remote_workdir, "GIVE_UP", 0.1)
        bucket.with_name("offline").touch()
        (workdir.folder / "c").touch()
        wait_for(lambda: workdir._fault, 10)
        workdir.check()


def test_an_error_names_the_url_and_not_the_copy(url):
    with pytest.raises(UserError, match=f"^{url}/checkpoints is odd$"), RemoteWorkdir(url, silent) as workdir:
        raise UserError(f"{workdir.folder}/checkpoints is odd")
