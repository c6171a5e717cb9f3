"""The training step compiled for devices that are not here: does it fit, and how much does it move?

XLA's compilers for TPUs and for NVIDIA's GPUs need a description of the device, not the device. They come with
``libtpu`` and with JAX's plugin for CUDA.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from detr_jax.benchmarks import coco_like
from detr_jax.benchmarks.step import gigabytes, kept
from detr_jax.errors import UserError
from detr_jax.training.compiled_steps import needed_gigabytes
from detr_jax.training.trainer import Trainer

BYTES = {"pred": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}  # move nothing
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# NVIDIA's data sheets: compute capability, multiprocessors, memory (GB), its bandwidth (TB/s), second cache (MiB),
# shared memory of a multiprocessor and of a block (KiB).
GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", 8, 108, 80, 2.039, 40, 164, 163),
    "h100": ("NVIDIA H100 80GB HBM3", 9, 132, 80, 3.352, 50, 228, 227),
    "h200": ("NVIDIA H200", 9, 132, 141, 4.8, 50, 228, 227),
}
# Kernels cannot be timed, so none is chosen by time. Triton's products have sizes that only a timing gives.
WITHOUT_TIMING = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def _described(gpu: str) -> str:
    name, capability, cores, memory, bandwidth, cache, shared, shared_by_block = GPUS[gpu]
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {capability} }}
          threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
          core_count: {cores}  fpus_per_core: {64 if capability == 8 else 128}
          shared_memory_per_block: 49152  shared_memory_per_core: {shared * 1024}
          shared_memory_per_block_optin: {shared_by_block * 1024}
          block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
          registers_per_core_limit: 65536  registers_per_block_limit: 65536
          memory_bandwidth: {bandwidth * 1e12:.0f}  device_memory_size: {memory * 1e9:.0f}
          l2_cache_size: {cache << 20}  clock_rate_ghz: {1.41 if capability == 8 else 1.98}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 12 minor: 8 }}
        device_description_str: "{name}"
    """


def devices(name: str) -> Sequence[jax.Device]:
    """Devices to compile for: "here", GPUs such as "h100" or "h100:8" (one host), TPUs such as "v5e:4x4".

    Raises UserError for any other name, and when the compiler is not installed.
    """
    if name == "here":
        return jax.devices()
    kind, _, count = name.partition(":")
    jax.config.update("jax_platforms", "cpu")  # what is not here shall not be looked for
    try:
        if kind in GPUS:
            topology = f"1x1x{int(count or 1)}"
            return topologies.get_topology_desc(kind, "cuda", target_config=_described(kind), topology=topology).devices
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or it asks a server that only a cloud has
        return topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:  # RuntimeError, JaxRuntimeError, ImportError, NotImplementedError, ValueError
        cause = (str(error).splitlines() or [repr(error)])[0]
        if kind in GPUS:
            raise UserError(
                f"--device={name} needs the compiler for it: pip install 'jax[cuda12]' ({cause})"
            ) from error
        raise UserError(
            f"--device={name} is none of here, {', '.join(GPUS)} (h100:8 for eight); for a TPU, such as v5e:2x2, "
            f"pip install 'jax[tpu]' ({cause})"
        ) from error


def _size(shape: str) -> int:
    """Bytes of all arrays in a type of a compiled program; 8 bit integers with sign are a library's working memory."""
    total = 0
    for dtype, lengths in re.findall(r"\b([a-z]+[0-9]*)\[([\d,]*)\]", shape):
        count = BYTES.get(dtype, 0)
        for length in filter(None, lengths.split(",")):
            count *= int(length)
        total += count
    return total


class Work(NamedTuple):
    """What a compiled program does besides arithmetic. Loops count once."""

    operations: int  # on a GPU each is a kernel to launch
    moved_bytes: int  # read and written; more than passes through the memory where a cache holds an operand


def work(program: str) -> Work:
    """Counts the operations of a compiled program, and what they move: each operand once for each, and each result."""
    entry = re.search(r"^ENTRY .*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)[1]
    sizes, operations, moved = {}, 0, 0
    for name, shape, operation, rest in re.findall(
        r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", entry, re.MULTILINE
    ):
        sizes[name] = _size(shape)
        if operation not in VIEWS:
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            operations += 1
            moved += sizes[name] + sum(sizes.get(operand, 0) for operand in set(operands))
    return Work(operations, moved)


def measure(config: dict, device: str, most: int | None, say: Callable[[str], None]) -> list[dict]:
    """A row for each canvas, the largest first: what each device needs, moves and launches in a step.

    Args:
      device: as for ``devices``.
      most: only so many canvases, the largest ones; each takes a minute or more to compile.
    """
    trainer = Trainer(config, coco_like.Images(seed=0), devices(device))
    images = trainer.batch_size // trainer.mesh.size
    options = WITHOUT_TIMING if device.partition(":")[0] in GPUS else None
    rows = []
    for bucket in sorted(trainer.plan.buckets, key=lambda bucket: -bucket.area)[:most]:
        begin = time.perf_counter()
        compiled = trainer.lowered(bucket).compile(compiler_options=options)
        program = compiled.as_text()
        done = work(program)
        counted = Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", program))
        rows.append(
            {
                "device": device,
                "canvas": f"{bucket.height}x{bucket.width}",
                "images_per_device": images,
                "gigabytes": needed_gigabytes(compiled),
                "kept_gigabytes": gigabytes(kept(trainer.network, tuple(config["freeze"]), images, bucket)),
                "moved_gigabytes": done.moved_bytes / 1e9,
                "operations": done.operations,
                "collectives": ", ".join(f"{count} {name}" for name, count in counted.items()) or "none",
                "compile_seconds": time.perf_counter() - begin,
            }
        )
        say(f"compiled {rows[-1]['canvas']} for {device}: {rows[-1]['gigabytes']:.2f} GB on each device")
    return rows
