"""Devices and hosts: the mesh, how a batch and a state lie on it, and that two devices train as one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax import devices, hosts
from detr_jax.benchmarks.compiled_program import find_collectives
from detr_jax.config import TrainConfig
from detr_jax.errors import UserError
from detr_jax.training.state import init_state
from tests.training.small import (
    assert_close,
    assert_equal,
    compile_step,
    jit,
    make_batch,
    make_small_recipe,
)


def mesh_of(shape: tuple[int, int]) -> jax.sharding.Mesh:
    """The first two devices as ('data', 'fsdp')."""
    return devices.make_mesh(shape[1], devices=jax.devices()[:2])


@pytest.mark.parametrize("shape", [(2, 1), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_two_devices_equal_one(shape, monkeypatch):
    monkeypatch.setattr(devices, "SMALLEST_SHARDED", 2048)  # so that (1, 2) really splits arrays of this small model
    recipe, mesh = make_small_recipe(), mesh_of(shape)
    assert mesh.devices.shape == shape
    state = init_state(jit(recipe.network.init)(jax.random.key(0, impl="rbg")), recipe)
    sharded = jax.device_put(state, devices.state_sharding(mesh, state))
    split = [name for name, array in sharded.params.items() if not array.is_fully_replicated]
    assert bool(split) == (shape == (1, 2))
    batches = [jax.device_put(make_batch(seed=seed), devices.batch_sharding(mesh)) for seed in range(2)]
    stepper, run = compile_step(recipe), compile_step(recipe._replace(mesh=mesh))
    if shape == (2, 1):  # the devices sum their gradients and a few figures; no image and no label leaves its own
        run = run.lower(sharded, batches[0]).compile()
        collectives = list(find_collectives(run.as_text()))
        assert {(one.kind, one.in_loop) for one in collectives} == {("all-reduce", False)}
        gradients = sum(array.nbytes for array in state.params.values())
        assert gradients < sum(one.result_bytes for one in collectives) < gradients + 512
    for seed, batch in enumerate(batches):
        state, expected = stepper(state, make_batch(seed=seed))
        sharded, found = run(sharded, batch)
        for name in ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6 * (seed + 1), err_msg=name)
    assert_equal(sharded.frozen, state.frozen)
    # The moments, not the parameters: Adam divides by the gradient's own size, rounding errors included.
    assert_close(jax.device_get(sharded.optimizer[0].mu), jax.device_get(state.optimizer[0].mu), 1e-5)


def test_mesh_of_all_devices():
    count = jax.device_count()
    assert dict(devices.make_mesh().shape) == {"data": count, "fsdp": 1}
    assert dict(devices.make_mesh(count).shape) == {"data": 1, "fsdp": count}
    for fsdp in (0, count + 1):
        with pytest.raises(UserError, match="does not divide"):
            devices.make_mesh(fsdp)


def test_a_batch_must_be_cut_into_equal_parts():
    mesh = mesh_of((2, 1))
    devices.check_training(TrainConfig(batch_size=12, accum_steps=3), mesh)
    for train in (TrainConfig(batch_size=3), TrainConfig(batch_size=10, accum_steps=2)):
        unit = 2 * train.accum_steps
        with pytest.raises(UserError, match=f"over 2 devices and train.accum_steps=.*a multiple of {unit}"):
            devices.check_training(train, mesh)


def test_the_kernel_needs_a_gpu():
    with pytest.raises(UserError, match="train.matcher=pallas needs a GPU and this is a cpu; choose loop"):
        devices.check_training(TrainConfig(matcher="pallas"), mesh_of((2, 1)))


def test_large_arrays_are_split_along_their_longest_axis_that_divides():
    large = devices.SMALLEST_SHARDED
    shapes = {
        "small": (large - 2,),
        "large": (2, large),
        "odd": (3, large + 1),
        "one axis divides": (2, large + 1),
    }
    state = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    specs = {name: one.spec for name, one in devices.state_sharding(mesh_of((1, 2)), state).items()}
    whole = jax.P()
    assert specs == {"small": whole, "large": jax.P(None, "fsdp"), "odd": whole, "one axis divides": jax.P("fsdp")}
    for one in devices.state_sharding(mesh_of((2, 1)), state).values():
        assert one.is_fully_replicated


def test_images_are_split_over_every_device():
    for shape in ((2, 1), (1, 2)):
        batch = jax.device_put(np.arange(8.0).reshape(4, 2), devices.batch_sharding(mesh_of(shape)))
        assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 2), (2, 2)]


def test_a_single_process_waits_for_nobody():
    assert hosts.from_first_host(lambda: [7]) == [7]
    hosts.wait_for_hosts("anything")


def test_explicit_axes_become_automatic():
    explicit = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    mesh = devices.as_auto(explicit)
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,) and mesh.devices.tolist() == explicit.devices.tolist()
