"""Devices: one mesh ('data', 'fsdp'), one code path from a laptop to a pod."""

import glob
import importlib.util
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from detr_jax.config import TrainConfig
from detr_jax.errors import UserError

SMALLEST_SHARDED = 1 << 20  # elements; smaller arrays are replicated, gathering them would cost more than it saves


# Modules of JAX's plugins, and where the devices show.
ACCELERATORS = (
    ("jax_cuda12_plugin", "/dev/nvidia[0-9]*"),
    ("jax_cuda13_plugin", "/dev/nvidia[0-9]*"),
    ("jax_rocm7_plugin", "/dev/kfd"),
    ("libtpu", "/dev/accel*"),
    ("libtpu", "/dev/vfio/[0-9]*"),
)


def expect_accelerator() -> bool:
    """Whether JAX will find a GPU or TPU, told without starting it: hosts of a pod must find each other first."""
    asked = (jax.config.jax_platforms or "").split(",")[0]
    if asked:
        return asked != "cpu"
    return any(importlib.util.find_spec(module) and glob.glob(place) for module, place in ACCELERATORS)


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ``devices`` (by default all of all hosts). ``fsdp`` of them share one copy of the state.

    The batch is split over all devices. Raises UserError when ``fsdp`` does not divide their number.
    """
    count = len(devices) if devices else jax.device_count()
    if fsdp < 1 or count % fsdp:
        raise UserError(f"train.fsdp={fsdp} does not divide the {count} devices; choose a divisor, or 1")
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def check_training(train: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError unless a batch can be cut into equal parts and the matcher runs on these devices."""
    unit = mesh.size * train.accum_steps
    if train.batch_size % unit:
        raise UserError(
            f"train.batch_size={train.batch_size} cannot be split over {mesh.size} devices and "
            f"train.accum_steps={train.accum_steps}; make it a multiple of {unit}"
        )
    platform = mesh.devices.flat[0].platform
    if train.matcher == "pallas" and platform not in ("gpu", "cuda"):
        raise UserError(f"train.matcher=pallas needs a GPU and this is a {platform}; choose loop")


def as_auto(mesh: Mesh) -> Mesh:
    """The same devices with Auto axes, over which the compiler splits; ``jax.make_mesh`` makes them Explicit."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images are split over every device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state):
    """The sharding of every array of a state: large ones are split over 'fsdp' along their longest divisible axis."""
    parts = mesh.shape["fsdp"]

    def sharding_of(leaf) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or math.prod(leaf.shape) < SMALLEST_SHARDED or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding_of, state)


def replicate(arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The arrays, the same on every host, whole on every device."""
    where = replicated(mesh)
    return {name: jax.make_array_from_process_local_data(where, array, array.shape) for name, array in arrays.items()}
