"""The state of a run: fresh, from weights, and from its own checkpoints to the last bit."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax import devices
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.training.state import (
    fresh_state,
    restore_state,
    start_state,
    state_shapes,
    store_state,
)
from detr_jax.training.step import Recipe, TrainState
from detr_jax.weights.checkpoints import Checkpoints
from tests.training.small import CATEGORIES, assert_equal, jit, make_small_recipe


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return devices.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def recipe(mesh) -> Recipe:
    return make_small_recipe(mesh=mesh)


@pytest.fixture(scope="module")
def fresh(recipe) -> TrainState:
    """The state of the seed, with nothing loaded."""
    return jit(lambda: fresh_state(recipe, {}))()


@pytest.fixture(scope="module")
def trained(recipe) -> TrainState:
    """A state in which every array differs from its start and from every other one."""
    rng = np.random.default_rng(0)

    def noise(shape: jax.ShapeDtypeStruct):
        whole = jnp.issubdtype(shape.dtype, jnp.integer)
        values = rng.integers(1, 100, shape.shape) if whole else rng.normal(size=shape.shape)
        return jax.device_put(np.asarray(values, shape.dtype), shape.sharding)

    return jax.tree.map(noise, state_shapes(recipe))._replace(numbers=jax.tree.map(jnp.asarray, recipe.numbers))


@pytest.fixture(scope="module")
def checkpoint(recipe, trained, tmp_path_factory) -> Path:
    """The folder of a checkpoint of that state."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep=1) as saved:
        saved.save(7, store_state(trained, recipe))
    return folder / "7"


def test_a_fresh_state_follows_from_the_seed(recipe, fresh):
    said = []
    state, digests = start_state(recipe, said.append)
    assert digests == {} and said == []
    for name, array in {**fresh.params, **fresh.frozen}.items():
        np.testing.assert_allclose({**state.params, **state.frozen}[name], array, atol=1e-6, err_msg=name)
    assert_equal(state.average, state.params)  # which begins with the parameters themselves, and is not the same memory
    pointers = [array.unsafe_buffer_pointer() for array in (*state.average.values(), *state.params.values())]
    assert len(set(pointers)) == len(pointers)
    assert int(state.step) == int(state.skipped) == int(state.skipped_in_a_row) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))
    assert state.frozen.keys() == recipe.network.frozen
    shapes = state_shapes(recipe)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
        assert shape.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def test_without_an_average_there_is_none(mesh):
    recipe = make_small_recipe({"train.average_decay": 0.0, "freeze": ("backbone",)}, mesh)
    shapes = state_shapes(recipe)
    assert shapes.average == {} and not any(name.startswith("backbone/") for name in shapes.params)
    assert store_state(shapes, recipe).averaged == {}


def test_a_checkpoint_gives_the_state_back_bit_for_bit(recipe, trained, checkpoint):
    restored = restore_state(recipe, checkpoint)
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    assert_equal(restored, trained)


def test_other_devices_take_the_same_state(trained, checkpoint, monkeypatch):
    monkeypatch.setattr(devices, "SMALLEST_SHARDED", 2048)
    recipe = make_small_recipe(mesh=devices.make_mesh(2, devices=jax.devices()[:2]))
    restored = restore_state(recipe, checkpoint)
    assert_equal(restored, trained)
    assert any(not array.is_fully_replicated for array in restored.params.values())


def test_a_checkpoint_holds_the_settings_and_the_classes(recipe, trained):
    stored = store_state(trained, recipe)
    assert stored.info == {"config": to_dict(recipe.config), "categories": CATEGORIES.to_rows()}
    assert stored.model.keys() == recipe.network.shapes.keys() and stored.averaged.keys() == trained.params.keys()


def test_a_checkpoint_of_another_model_is_refused(checkpoint, mesh):
    wider = make_small_recipe({"model.feed_forward_dim": 128}, mesh)
    with pytest.raises(UserError, match="does not fit this model"):
        restore_state(wider, checkpoint)


def test_weights_to_start_from_are_reported_once_and_recorded(recipe, trained, checkpoint, mesh):
    """A detector of other classes: averaged arrays, rows of the class head by name."""
    said = []
    other = make_small_recipe({"init_from": str(checkpoint), "seed": 5}, mesh)
    other = other._replace(categories=Categories((4, 5, 6), ("emu", "dog", "cat")))
    state, digests = start_state(other, said.append)
    assert digests == {str(checkpoint): hashlib.sha256((checkpoint / "checksums.json").read_bytes()).hexdigest()}
    assert len(said) == 1 and str(checkpoint) in said[0] and said[0].count("loaded") == 1
    fresh = jit(lambda: fresh_state(other, {}))()
    for name, array in {**trained.average, **trained.frozen}.items():
        found = {**state.params, **state.frozen}[name]
        if name.startswith("class_head/"):  # emu, dog, cat, no object of cat, dog, cow, no object
            np.testing.assert_allclose(found[..., 0], fresh.params[name][..., 0], atol=1e-6)
            np.testing.assert_array_equal(found[..., 1:], array[..., np.array([1, 0, 3])])
        else:
            np.testing.assert_array_equal(found, array, err_msg=name)
    assert int(state.step) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))


def test_a_backbone_to_start_from_leaves_the_rest_fresh(trained, fresh, checkpoint, mesh):
    said = []
    recipe = make_small_recipe({"model.backbone_weights": str(checkpoint)}, mesh)
    state, digests = start_state(recipe, said.append)
    assert digests.keys() == {str(checkpoint)} and len(said) == 1 and said[0].count("loaded") == 1
    for name, array in {**state.params, **state.frozen}.items():
        if name.startswith("backbone/"):
            np.testing.assert_array_equal(array, {**trained.average, **trained.frozen}[name], err_msg=name)
        else:
            np.testing.assert_allclose(array, fresh.params[name], atol=1e-6, err_msg=name)


def test_a_backbone_is_not_read_where_init_from_has_it(checkpoint, mesh):
    recipe = make_small_recipe({"init_from": str(checkpoint), "model.backbone_weights": "nobody/has.this"}, mesh)
    _, digests = start_state(recipe, lambda line: None)
    assert [*digests] == [str(checkpoint)]


def test_freeze_must_begin_the_name_of_an_array(mesh):
    with pytest.raises(UserError, match="'transformer/encoder/9', but no array of the model begins like that"):
        make_small_recipe({"freeze": ("backbone", "transformer/encoder/9")}, mesh)
