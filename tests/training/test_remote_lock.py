"""One run at a time writes at a URL; a lock whose owner gives no sign of life is taken over."""

import json
import platform
import subprocess
import sys
import time

import pytest

import tests.object_store  # noqa: F401  registers store://
from detr_jax.errors import UserError
from detr_jax.remote import RemoteError, RemoteFolder
from detr_jax.training import remote_lock
from detr_jax.training.remote_lock import LOCK, RemoteLock
from tests.programs import wait_for


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RemoteFolder:
    monkeypatch.setattr(remote_lock, "BEAT", 0.05)
    monkeypatch.setattr(remote_lock, "PATIENCE", 0.5)
    monkeypatch.setattr(remote_lock, "SETTLED", 0.01)
    return RemoteFolder(f"store://{tmp_path}/run")


def silent(line: str) -> None:
    pass


def leave_lock(folder: RemoteFolder, **owner) -> None:
    folder.write(LOCK, json.dumps({"host": "elsewhere", "pid": 7, "since": "yesterday"} | owner).encode())


def test_the_lock_names_its_owner_and_goes_at_the_end(folder):
    with RemoteLock(folder, silent) as lock:
        owner = json.loads(folder.read(LOCK))
        assert owner["host"] == platform.node()
        wait_for(lambda: json.loads(folder.read(LOCK) or b"{}").get("beat", 0) > owner["beat"], 10)
        lock.check()
    assert folder.list() == {}


def test_a_second_run_elsewhere_is_refused(folder, monkeypatch):
    with RemoteLock(folder, silent):
        monkeypatch.setattr(platform, "node", lambda: "elsewhere")
        with pytest.raises(UserError, match=r"store://.*run is in use by process \d+ on host .*--workdir"):
            RemoteLock(folder, silent).__enter__()


def test_a_silent_owner_is_taken_over_after_a_while(folder):
    leave_lock(folder)
    said, begin = [], time.monotonic()
    with RemoteLock(folder, said.append):
        assert time.monotonic() - begin >= remote_lock.PATIENCE
    assert "process 7 on host elsewhere (since yesterday)" in said[0] and "taken over" in said[1] and len(said) == 2


def test_a_dead_process_of_this_host_is_taken_over_at_once(folder, monkeypatch):
    monkeypatch.setattr(remote_lock, "PATIENCE", 1000.0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave_lock(folder, host=platform.node(), pid=gone.pid)
    said = []
    with RemoteLock(folder, said.append):
        assert "is gone; its lock is taken over" in said[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": "x"}', b'{"pid": 99999999999999999999}'])
def test_whatever_the_lock_holds_it_is_taken_over(folder, content):
    folder.write(LOCK, content)
    with RemoteLock(folder, silent):
        assert json.loads(folder.read(LOCK))["host"] == platform.node()


def test_an_owner_that_lost_its_lock_is_told(folder):
    with RemoteLock(folder, silent) as lock:
        wait_for(lambda: leave_lock(folder) or bool(lock._fault), 10)
        with pytest.raises(UserError, match="in use by process 7 on host elsewhere"):
            lock.check()
    assert json.loads(folder.read(LOCK))["pid"] == 7  # it is not ours to remove


def test_a_refused_write_of_its_own_lock_is_no_takeover(folder, monkeypatch):
    with RemoteLock(folder, silent) as lock:
        write, refused = folder.write, []

        def refuse_some(name, data):
            refused.append(name)
            if len(refused) < 3:
                raise RemoteError("offline")
            write(name, data)

        monkeypatch.setattr(folder, "write", refuse_some)
        wait_for(lambda: len(refused) > 4, 10)
        lock.check()
