"""The training step compiled for devices that are not here: does it fit, and how much does it move?

XLA's compilers for TPUs and for NVIDIA's GPUs need a description of the device, not the device. They come with
``libtpu`` and with JAX's plugin for CUDA.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from detr_jax.benchmarks.compiled_program import Collective, count_work, find_collectives
from detr_jax.benchmarks.step import list_kept, make_training, sum_gigabytes
from detr_jax.config import Config
from detr_jax.errors import UserError
from detr_jax.training.compiled_steps import Say, StepLowering, needed_gigabytes
from detr_jax.training.state import state_shapes


class Gpu(NamedTuple):
    """A GPU as NVIDIA's data sheet describes it."""

    name: str
    capability: int  # compute capability, the major number
    multiprocessors: int
    memory: int  # GB
    bandwidth: float  # of the memory, TB/s
    cache: int  # second level, MiB
    shared: int  # shared memory of a multiprocessor, KiB
    shared_by_block: int  # the most of it that one block may use, KiB


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 80, 2.039, 40, 164, 163),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 80, 3.352, 50, 228, 227),
    "h200": Gpu("NVIDIA H200", 9, 132, 141, 4.8, 50, 228, 227),
}
# No kernel can be timed here, so the compiler must not choose by time; Triton's tile sizes come only from timings.
WITHOUT_TIMING = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def describe_gpu(gpu: Gpu) -> str:
    """The description that XLA's compiler wants, in its text format."""
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {gpu.capability} }}
          threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
          core_count: {gpu.multiprocessors}  fpus_per_core: {64 if gpu.capability == 8 else 128}
          shared_memory_per_block: 49152  shared_memory_per_core: {gpu.shared * 1024}
          shared_memory_per_block_optin: {gpu.shared_by_block * 1024}
          block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
          registers_per_core_limit: 65536  registers_per_block_limit: 65536
          memory_bandwidth: {gpu.bandwidth * 1e12:.0f}  device_memory_size: {gpu.memory * 1e9:.0f}
          l2_cache_size: {gpu.cache << 20}  clock_rate_ghz: {1.41 if gpu.capability == 8 else 1.98}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 12 minor: 8 }}
        device_description_str: "{gpu.name}"
    """


def find_devices(name: str) -> Sequence[jax.Device]:
    """Devices to compile for: "here", GPUs such as "h100" or "h100:8" (one host), TPUs such as "v5e:4x4", or so many
    simulated ones of a CPU, such as "cpu:64".

    Raises UserError for any other name, and when the compiler is not installed.
    """
    if name == "here":
        return jax.devices()
    kind, _, count = name.partition(":")
    jax.config.update("jax_platforms", "cpu")  # don't search this machine for the device
    if kind == "cpu" and count.isdecimal() and int(count):
        jax.config.update("jax_num_cpu_devices", int(count))
        return jax.devices()
    try:
        if kind in GPUS:
            topology, target = f"1x1x{int(count or 1)}", describe_gpu(GPUS[kind])
            return topologies.get_topology_desc(kind, "cuda", target_config=target, topology=topology).devices
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks a server that only Google's cloud has
        return topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:  # RuntimeError, JaxRuntimeError, ImportError, NotImplementedError, ValueError
        cause = (str(error).splitlines() or [repr(error)])[0]
        if kind in GPUS:
            raise UserError(
                f"--device={name} needs the compiler for it: pip install 'jax[cuda12]' ({cause})"
            ) from error
        raise UserError(
            f"--device={name} is none of here, cpu:8, {', '.join(GPUS)} (h100:8: eight of them); for a TPU, such as "
            f"v5e:2x2, pip install 'jax[tpu]' ({cause})"
        ) from error


def describe_collectives(collectives: Sequence[Collective]) -> str:
    """How many there are of each kind."""
    counts = Counter(one.kind for one in collectives)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def measure(config: Config, device: str, most: int | None, say: Say) -> list[dict]:
    """A row for each canvas, the largest first: what each device needs, moves and launches in a step.

    Args:
      device: as for ``find_devices``.
      most: only so many canvases, the largest ones; each takes a minute or more to compile.
      say: gets a line for each compiled canvas.
    """
    recipe, plan, reader = make_training(config, on=find_devices(device))
    lower, state = StepLowering(recipe, reader), state_shapes(recipe)
    images = plan.batch_size // recipe.mesh.size
    options = WITHOUT_TIMING if device.partition(":")[0] in GPUS else None
    gradients = sum_gigabytes(jax.tree.leaves(state.params))  # each has the shape and type of its parameter
    rows = []
    for bucket in sorted(plan.buckets, key=lambda bucket: -bucket.area)[:most]:
        begin = time.perf_counter()
        compiled = lower(state, bucket).compile(compiler_options=options)
        program = compiled.as_text()
        work = count_work(program)
        collectives = list(find_collectives(program))
        rows.append(
            {
                "device": device,
                "canvas": f"{bucket.height}x{bucket.width}",
                "images_per_device": images,
                "gigabytes": needed_gigabytes(compiled),
                "kept_gigabytes": sum_gigabytes(list_kept(recipe.network, config.freeze, images, bucket, reader)),
                "moved_gigabytes": work.moved_bytes / 1e9,
                "operations": work.operations,
                "collectives": describe_collectives(collectives),
                "collectives_in_loops": sum(one.in_loop for one in collectives),
                "collective_megabytes": sum(one.result_bytes for one in collectives) / 1e6,
                "gradient_megabytes": gradients * 1e3,
                "compile_seconds": time.perf_counter() - begin,
            }
        )
        say(f"compiled {rows[-1]['canvas']} for {device}: {rows[-1]['gigabytes']:.2f} GB on each device")
    return rows
