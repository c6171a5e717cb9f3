"""Checks the installation and the machine: ``python -m detr_jax.doctor [--smoke]``.

Prints a table: Python, packages, devices, hosts, memory, disk. ``--smoke`` also trains a tiny model for two steps and
evaluates it; ``--checkpoint=WORKDIR`` and ``--dataset=DATA_DIR/NAME`` look for damage in one. ``--bundle=FILE.zip
[--workdir=DIR]`` packs the table, and the settings and the end of the log of a run, for a bug report: no image, and
nothing of the environment. The exit status is 1 when something is wrong. On a pod, start it on every host, like a
training.
"""

import importlib.metadata
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import jax
    from absl import flags
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    from detr_jax import __version__, cli, files, hosts
    from detr_jax.config import Config, DataConfig, ModelConfig, TrainConfig
    from detr_jax.datasets import shapes
    from detr_jax.datasets.split import find_damage, open_split, split_names
    from detr_jax.errors import UserError
    from detr_jax.evaluation import coco_eval
    from detr_jax.inference.detector import load
    from detr_jax.remote import is_remote
    from detr_jax.structures import Bucket
    from detr_jax.train import train
    from detr_jax.training.run_record import installed_versions
    from detr_jax.weights import finding
    from detr_jax.weights.manifest import damage
except ImportError as error:  # the program itself still starts, and says so
    IMPORT_ERROR = error
else:
    IMPORT_ERROR = None

CHECKOUT = Path(__file__).resolve().parents[1]
OPTIONAL = {"tensorboardX": "writes tb/ for TensorBoard", "torch": "reads .pth files"}
HOST_VARIABLES = (
    "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "TPU_WORKER_HOSTNAMES", "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
)  # fmt: skip
NVIDIA_DEVICES = Path("/dev/nvidiactl")  # there when NVIDIA's driver is loaded
SIZE = 64  # side of the images of --smoke in pixels
LEAST_GIGABYTES = 2.0  # of free disk: three checkpoints of R50 with its optimizer
LOG_LINES = 200  # of train.log in a bundle
SECRETS = re.compile(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)|(?<=token=)\S+|(?<=password=)\S+|(?<=key=)\S+", re.IGNORECASE)


class Finding(NamedTuple):
    """A line of the table."""

    what: str
    found: str
    fault: str = ""  # what is wrong and how to mend it; empty when all is well


def read_requirements() -> tuple["SpecifierSet", list["Requirement"]]:
    """The range of Python versions and the required packages: of the checkout, else of the installed package."""
    project = CHECKOUT / "pyproject.toml"
    if project.exists():
        python = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["requires-python"]
        lines = [
            line.partition("#")[0].strip()
            for line in (CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        ]
        return SpecifierSet(python), [Requirement(line) for line in lines if line]
    about = importlib.metadata.metadata("detr_jax")
    return SpecifierSet(about["Requires-Python"]), [Requirement(line) for line in about.get_all("Requires-Dist") or []]


def check_software() -> Iterator[Finding]:
    """Versions of Python and of the packages, beside what requirements.txt asks for."""
    wanted_python, requirements = read_requirements()
    python = platform.python_version()
    fault = "" if wanted_python.contains(python) else f"Python {python} is not {wanted_python}"
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Finding("python", f"{python} ({sys.executable})", fault)
    yield Finding("detr_jax", __version__)
    ranges = {requirement.name: requirement.specifier for requirement in requirements}
    versions = installed_versions((*ranges, *(name for name in (*OPTIONAL, "jaxlib") if name not in ranges)))
    for name, version in sorted(versions.items()):
        yield check_package(name, version, ranges.get(name))


def check_package(name: str, version: str | None, wanted: "SpecifierSet | None") -> Finding:
    """One package; ``wanted`` is None where any version will do."""
    if version is None:
        missing = name not in OPTIONAL
        reason = f"{name} is missing: pip install -r requirements.txt" if missing else ""
        return Finding(name, "missing" if missing else f"not installed ({OPTIONAL[name]})", reason)
    if wanted is None or wanted.contains(version, prereleases=True):
        return Finding(name, version)
    return Finding(name, version, f"{name} {version} is not {wanted}: pip install -r requirements.txt")


def check_hosts() -> Iterator[Finding]:
    """Joins the other hosts, if the environment names any."""
    said = [f"{name}={os.environ[name]}" for name in HOST_VARIABLES if name in os.environ]
    yield Finding("environment", ", ".join(said) or "names no other host")
    hosts.start_hosts()


def check_devices() -> Iterator[Finding]:
    """The number of hosts, and the devices of this one with their memory."""
    yield Finding("hosts", f"{jax.process_count()}, this is number {jax.process_index()}")
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = f", {limit / 2**30:.1f} GiB for JAX" if limit else ""
        yield Finding(f"device {device.id}", f"{device.device_kind} ({device.platform}){memory}")
    yield Finding("devices", f"{jax.device_count()} on all hosts")
    if jax.default_backend() == "cpu" and NVIDIA_DEVICES.exists() and "JAX_PLATFORMS" not in os.environ:
        yield Finding(
            "NVIDIA driver", "loaded", "there is an NVIDIA GPU, but JAX does not use it: pip install 'jax[cuda13]'"
        )


def check_machine() -> Iterator[Finding]:
    """Processor cores and memory that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU cores", f"{cores} of {os.cpu_count()}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of the container
    allowed = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    limited = f", of which this container may use {int(allowed) / 2**30:.1f} GiB" if allowed.isdecimal() else ""
    yield Finding("memory", f"{memory / 2**30:.1f} GiB{limited}")


def check_disk() -> Iterator[Finding]:
    """Free space and a writable place: the working folder (or --workdir), and the cache of compiled programs."""
    workdir = Path(flags.FLAGS.workdir or ".").expanduser()
    yield check_place("disk", workdir)
    if jax.config.jax_compilation_cache_dir:
        yield check_place("compilation cache", Path(jax.config.jax_compilation_cache_dir))


def check_place(what: str, folder: Path) -> Finding:
    """Whether files can be written to a folder, or to the nearest one above it that exists."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    fault = "" if free >= LEAST_GIGABYTES else f"{place} has only {free:.1f} GB left: make room for checkpoints"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fault = f"{place} cannot be written ({error.strerror}): choose another folder, or make it writable"
    return Finding(what, f"{free:.1f} GB free in {place}", fault)


def check_checkpoint() -> Iterator[Finding]:
    """Every checkpoint of a workdir, or one."""
    path = flags.FLAGS.checkpoint if is_remote(flags.FLAGS.checkpoint) else Path(flags.FLAGS.checkpoint).expanduser()
    root = finding.find_root(path)
    found = [root.folder(step) for step in root.steps()] if root else [finding.local_copy(path)]
    for one in found:
        reason = damage(one)
        fault = f"checkpoint {one} is damaged ({reason}): remove it, or train again" if reason else ""
        yield Finding(f"checkpoint {one.name}", "damaged" if reason else "intact", fault)


def check_dataset() -> Iterator[Finding]:
    """The shards and indices of a prepared dataset, against their checksums."""
    path = Path(flags.FLAGS.dataset).expanduser()
    splits = split_names(path.parent, path.name)
    faults = find_damage(path.parent, path.name)
    yield Finding(f"dataset {path.name}", f"splits {', '.join(splits)}", "; ".join(faults))


def make_smoke_config(data_dir: Path, device_count: int) -> "Config":
    """Two steps of a tiny model on the dataset ``smoke``."""
    model = ModelConfig(
        backbone="resnet10", backbone_width=16, last_stage="layer3", norm="group", hidden_dim=32, heads=4,
        encoder_layers=1, decoder_layers=2, feed_forward_dim=64, num_queries=10,
    )  # fmt: skip
    data = DataConfig(
        name="smoke", dir=str(data_dir), scales=(SIZE,), max_size=SIZE, crop=0.0, buckets=(Bucket(SIZE, SIZE, 8),),
        threads=1,
    )  # fmt: skip
    train = TrainConfig(steps=2, batch_size=2 * device_count, log_every=1, checkpoint_every=2, eval_every=2, samples=2)
    return Config(model=model, data=data, train=train)


def run_smoke() -> Iterator[Finding]:
    """Prepares a dataset, trains two steps on it, loads the checkpoint and evaluates it."""
    if jax.process_count() > 1:
        raise UserError("--smoke runs on one host; on several, train configs/shapes.py:smoke into a shared workdir")
    with tempfile.TemporaryDirectory() as folder:
        data_dir, workdir = Path(folder) / "data", Path(folder) / "workdir"
        config = make_smoke_config(data_dir, jax.device_count())
        begin = time.perf_counter()
        settings = shapes.Settings(train=2 * config.train.batch_size, val=4, size=SIZE)
        shapes.prepare(data_dir, config.data.name, settings)
        yield Finding("smoke: data", f"{time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        train(config, workdir)
        yield Finding("smoke: training", f"{time.perf_counter() - begin:.1f} s, two steps, compilation included")
        begin = time.perf_counter()
        split, results = open_split(str(data_dir), config.data.name, config.data.val_split), []
        for row, detections in load(workdir).over(split, batch_size=2):
            results += detections.to_coco(split.image_ids[row])
        metrics = coco_eval.evaluate(split.ground_truth(), results)
        finite = bool(results) and all(math.isfinite(row["score"]) for row in results)
        yield Finding(
            "smoke: evaluation",
            f"{time.perf_counter() - begin:.1f} s, AP {metrics.AP:.3f} of {len(results)} detections",
            "" if finite else "the model of --smoke detects nothing, or scores that are not finite",
        )


def print_findings(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Prints each line as soon as it is known. Raises UserError when the check itself fails."""
    findings = []
    try:
        for finding in check():
            print(format_finding(finding), flush=True)
            findings.append(finding)
    except UserError:
        raise
    except Exception as error:  # of a driver, of the network between hosts, of a compiler
        reason = " ".join(str(error).split())[:300]
        name = check.__name__.replace("_", " ")
        raise UserError(f"{name} failed ({type(error).__name__}: {reason}); --debug shows where") from error
    return findings


def format_finding(finding: Finding) -> str:
    """A line of the table."""
    return f"{'!' if finding.fault else ' '} {finding.what:<24} {finding.found}"


def write_bundle(path: Path, findings: list[Finding], workdir: Path | None) -> list[str]:
    """Packs what a bug report needs; returns the names of the files in it."""
    texts = {"doctor.txt": "\n".join([*map(format_finding, findings), *(f.fault for f in findings if f.fault)])}
    if workdir is not None:
        kept = [workdir / "config.json", workdir / "run.json", workdir / "train.log", *sorted(workdir.glob("*-*.txt"))]
        for file in kept:
            if file.is_file():
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                texts[file.name] = "\n".join(lines[-LOG_LINES:] if file.suffix == ".log" else lines)
    with files.replacing(path) as sibling, zipfile.ZipFile(sibling, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(name, SECRETS.sub("***", text.replace(str(Path.home()), "~")) + "\n")
    return list(texts)


def main(argv: list[str]) -> None:
    """Prints the table. Raises UserError with everything that is wrong."""
    args = flags.FLAGS
    cli.refuse_words(argv[1:])
    checks = [check_software, check_machine, check_disk, check_hosts, check_devices]
    checks += [check_checkpoint] if args.checkpoint else []
    checks += [check_dataset] if args.dataset else []
    checks += [run_smoke] if args.smoke else []
    findings = [finding for check in checks for finding in print_findings(check)]
    if args.bundle:
        names = write_bundle(Path(args.bundle), findings, Path(args.workdir).expanduser() if args.workdir else None)
        print(f"{args.bundle}: {', '.join(names)}; read them before you send them")
    faults = [finding.fault for finding in findings if finding.fault]
    if faults:
        raise UserError("; ".join(faults))
    print("nothing is wrong")


def describe_broken_installation(error: ImportError) -> str:
    """What is installed, and the sentence for a package that cannot be imported. Needs nothing but Python."""
    installed = [f"  {one.name:<24} {one.version}" for one in importlib.metadata.distributions()]
    lines = [f"  {'python':<24} {platform.python_version()} ({sys.executable})", *sorted(installed)]
    return "\n".join([*lines, f"error: detr_jax cannot be imported ({error}): pip install -r requirements.txt"])


def define_flags() -> None:
    """The flags of this program."""
    flags.DEFINE_bool("smoke", False, "Also train a tiny model for two steps and evaluate it.")
    flags.DEFINE_string("checkpoint", None, "A workdir or one of its checkpoints/<step>, here or at a URL, to verify.")
    flags.DEFINE_string("dataset", None, "A prepared dataset, DATA_DIR/NAME, to look for damage.")
    flags.DEFINE_string("bundle", None, "Zip file to write for a bug report.")
    flags.DEFINE_string("workdir", None, "Run whose settings and log go into --bundle; its disk is looked at.")


if __name__ == "__main__":
    if IMPORT_ERROR is not None:
        sys.exit(describe_broken_installation(IMPORT_ERROR))
    cli.run(main, define_flags)
