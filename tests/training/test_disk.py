"""A workdir that cannot be written any more: one sentence that says why and what to do, and only about the workdir."""

import errno

import pytest

from detr_jax.errors import UserError
from detr_jax.training.disk import ADVICE, explain_disk_faults


@pytest.mark.parametrize("number", ADVICE, ids=errno.errorcode.get)
def test_a_failed_write_is_one_sentence(tmp_path, number):
    with pytest.raises(UserError, match=f"cannot write into {tmp_path} .*the same command goes on") as caught:  # noqa: SIM117
        with explain_disk_faults(tmp_path):
            raise OSError(number, "")
    assert ADVICE[number] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    ["Failed to write 9 bytes: No space left on device", "NOT_FOUND: Error writing x", "No ArrayMetadata found for x"],
)
def test_words_of_native_code_are_understood(tmp_path, words):
    with pytest.raises(UserError, match=f"cannot write into {tmp_path}"), explain_disk_faults(tmp_path):
        raise ValueError(f"{words} [{tmp_path}/checkpoints/5]")


def test_the_cause_of_an_error_is_looked_at(tmp_path):
    with pytest.raises(UserError, match="No space left on device"), explain_disk_faults(tmp_path):
        try:
            raise OSError(errno.ENOSPC, "", str(tmp_path / "metrics.csv"))
        except OSError as error:
            raise RuntimeError("save failed") from error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/weights.pth"),
        ValueError("[/elsewhere] No space left on device"),
        OSError(errno.EINVAL, "Invalid argument"),
        ZeroDivisionError("division by zero"),
    ],
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, explain_disk_faults(tmp_path):
        raise error
    assert caught.value is error


def test_a_mistake_of_the_user_stays_what_it_is(tmp_path):
    with pytest.raises(UserError, match="other settings"), explain_disk_faults(tmp_path):
        try:
            raise FileNotFoundError(errno.ENOENT, "", str(tmp_path))
        except OSError as error:
            raise UserError("other settings") from error


def test_a_block_without_an_error_passes(tmp_path):
    with explain_disk_faults(tmp_path):
        pass


def test_whatever_fails_in_a_workdir_that_is_gone_is_told_of_it(tmp_path):
    """Orbax then misses one thing or another, in words of its own."""
    gone = tmp_path / "run"
    with pytest.raises(UserError, match=f"cannot write into {gone} .*put it back"), explain_disk_faults(gone):
        raise ValueError(f"Something is missing in {gone}/checkpoints/5.orbax-checkpoint-tmp")
    with pytest.raises(ValueError, match="elsewhere"), explain_disk_faults(gone):
        raise ValueError("nothing found in /elsewhere")
