"""The doctor: a table that tells what is there, and status 1 with one sentence when something is wrong."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from packaging.specifiers import SpecifierSet

from detr_jax import doctor
from detr_jax.config_check import check
from tests.programs import REPOSITORY, assert_one_sentence


def found(output: str) -> dict[str, str]:
    """The lines of the table."""
    return dict(re.findall(r"^[! ] (\S.*?) {2,}(.+)$", output, re.MULTILINE))


def test_the_table_says_what_is_installed(programs):
    done = programs.run("doctor", SLURM_NTASKS=1)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    table = found(done.stdout)
    assert table["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert table["jax"] == jax.__version__ and table["numpy"] == importlib.metadata.version("numpy")
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.match(r"[\w.-]+", line)[0] in table, line
    assert "(cpu)" in table["device 0"] and table["environment"] == "SLURM_NTASKS=1"
    assert table["hosts"].startswith("1,") and "GiB" in table["memory"] and " of " in table["CPU cores"]


@pytest.mark.slow
def test_smoke(programs):
    done = programs.run("doctor", "--smoke")
    assert done.returncode == 0, done.stderr
    for part in ("data", "training", "evaluation"):
        assert re.match(r"\d+\.\d s", found(done.stdout)[f"smoke: {part}"])
    assert "nothing is wrong" in done.stdout.splitlines()[-1]


def test_the_settings_of_the_smoke_test_are_possible(tmp_path):
    for count in (1, 8):
        config = doctor.make_smoke_config(tmp_path, count)
        check(config)
        assert config.train.steps == 2 and config.train.batch_size % count == 0


@pytest.mark.parametrize(
    ("name", "version", "wanted", "fault"),
    [
        ("flax", "0.12.7", ">=0.12.6,<0.13", ""),
        ("flax", "0.11.0", ">=0.12.6,<0.13", "flax 0.11.0 is not <0.13,>=0.12.6: pip install -r requirements.txt"),
        ("flax", None, ">=0.12.6,<0.13", "flax is missing: pip install -r requirements.txt"),
        ("torch", None, None, ""),
        ("tensorboardX", None, ">=2.6.2", ""),
        ("torch", "2.13.0+cpu", None, ""),
    ],
)
def test_a_package_outside_its_range(name, version, wanted, fault):
    finding = doctor.check_package(name, version, SpecifierSet(wanted) if wanted else None)
    assert finding.fault == fault
    assert finding.found.startswith(version or ("not installed" if name in doctor.OPTIONAL else "missing"))


def test_an_idle_gpu_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(doctor, "NVIDIA_DEVICES", tmp_path)
    faults = [finding.fault for finding in doctor.check_devices() if finding.fault]
    assert len(faults) == 1 and "jax[cuda13]" in faults[0]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # asked for
    assert not any(finding.fault for finding in doctor.check_devices())


def test_a_check_that_fails_is_one_sentence(programs):
    done = programs.run("doctor", JAX_PLATFORMS="abacus")
    assert_one_sentence(done, "check devices failed", "abacus")
    assert "python" in found(done.stdout)


def test_an_argument_is_refused(programs):
    assert_one_sentence(programs.run("doctor", "smoke"), "'smoke'", "--smoke")


def test_a_missing_package_is_one_sentence(tmp_path):
    (tmp_path / "optax.py").write_text("raise ImportError('no optax here')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport runpy; sys.argv = ['doctor']\n"
    code += "runpy.run_module('detr_jax.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: detr_jax cannot be imported (no optax here)")
    assert any(line.split() == ["jax", jax.__version__] for line in done.stderr.splitlines())
    assert str(Path(sys.executable)) in done.stderr


def test_damage_is_found_and_a_bundle_holds_no_secret(programs, tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(programs.data / "tiny", data / "tiny")
    step = workdir / "checkpoints" / "3"
    (step / "info").mkdir(parents=True)
    (step / "info" / "metadata").write_text("{}")
    (workdir / "train.log").write_text("starts: --config.init_from=https://me:hunter2@host/w hf_abcdefghijkl\n" * 300)
    arguments = [
        f"--checkpoint={workdir}",
        f"--dataset={data}/tiny",
        f"--bundle={tmp_path}/b.zip",
        f"--workdir={workdir}",
    ]
    shard = next(path for path in (data / "tiny").rglob("*array_record*") if "train" in path.name)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = programs.run("doctor", *arguments)
    assert_one_sentence(done, "checkpoint", "is damaged", "checksums.json is missing", shard.name)
    assert "! checkpoint 3" in done.stdout and "! dataset tiny" in done.stdout
    with zipfile.ZipFile(tmp_path / "b.zip") as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert set(texts) == {"doctor.txt", "train.log"} and len(texts["train.log"].splitlines()) == 200
    assert "checksums.json is missing" in texts["doctor.txt"] and str(Path.home()) not in texts["doctor.txt"]
    assert "hunter2" not in texts["train.log"] and "hf_abc" not in texts["train.log"]


def test_a_full_or_closed_disk_is_a_fault(tmp_path, monkeypatch):
    assert doctor.check_place("disk", tmp_path / "not" / "there").found.endswith(str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e8))
    assert "only 0.1 GB left" in doctor.check_place("disk", tmp_path).fault

    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert "cannot be written (Read-only file system)" in doctor.check_place("disk", tmp_path).fault
