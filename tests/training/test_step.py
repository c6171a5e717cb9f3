"""One training step: gradients, skipping, accumulation, figures for the log, each against something simpler."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from detr_jax.batches import augmentation
from detr_jax.config import DataConfig
from detr_jax.structures import Photos, Predictions
from detr_jax.training import losses, matcher, step
from detr_jax.training.denoising import add_noise
from detr_jax.training.state import init_state
from tests.training.small import (
    CLASSES,
    FAST,
    assert_close,
    assert_equal,
    compile_step,
    jit,
    make_batch,
    make_small_recipe,
)


@pytest.fixture(scope="module")
def recipe():
    return make_small_recipe()


@pytest.fixture(scope="module")
def arrays(recipe):
    return jit(recipe.network.init)(jax.random.key(0, impl="rbg"))


@pytest.fixture(scope="module")
def stepper(recipe):
    """The step of the tests that need no other settings, compiled once."""
    return compile_step(recipe)


@pytest.fixture
def state(recipe, arrays):
    return init_state(arrays, recipe)


def gradients_of(recipe, state, batch):
    return jit(lambda state, batch: step.compute_gradients(state, batch, recipe))(state, batch)


# --- Gradients ---


@pytest.fixture(scope="module")
def whole(recipe, arrays):
    """(gradients, sums) of the batch in one piece."""
    return gradients_of(recipe, init_state(arrays, recipe), make_batch())


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulation_gives_the_gradient_of_one_big_batch(parts, state, whole):
    gradients, sums = gradients_of(make_small_recipe({"train.accum_steps": parts}), state, make_batch())
    difference = jax.tree.map(jnp.subtract, gradients, whole[0])
    assert optax.global_norm(difference) < 1e-6 * optax.global_norm(whole[0])
    assert_close(gradients, whole[0], 1e-5)
    assert sums.terms.keys() == whole[1].terms.keys() == {""}
    for name, values in whole[1].terms[""]._asdict().items():
        np.testing.assert_allclose(getattr(sums.terms[""], name), values, rtol=1e-5, err_msg=name)
    assert_equal(sums.errors, whole[1].errors)


def test_rematerialisation_computes_more_and_gives_the_same(recipe, state, whole):
    again, batch = make_small_recipe({"train.remat": True}), make_batch()
    gradients, sums = gradients_of(again, state, batch)
    assert_close(gradients, whole[0], 1e-5)
    assert_close(sums.terms[""]._asdict(), whole[1].terms[""]._asdict(), 1e-5)

    def flops(recipe):  # as asked for: the CPU's compiler may undo it
        lowered = jax.jit(lambda state, batch: step.compute_gradients(state, batch, recipe)[0]).lower(state, batch)
        return lowered.cost_analysis()["flops"]

    assert flops(again) > 1.1 * flops(recipe)


def test_gradients_reach_every_trained_array_and_no_other(recipe, whole):
    grads, network = whole[0], recipe.network
    assert grads.keys() == network.shapes.keys() - network.frozen and network.frozen
    # The first self-attention of the decoder sees values of 0 and all its biases start at 0, so its output is 0;
    # a key's bias never matters.
    blind = {f"transformer/decoder/0/self_attention/{name}" for name in ("query/kernel", "query/bias", "key/kernel")}
    blind |= {"transformer/decoder/0/self_attention/value/kernel", "transformer/decoder/0/self_attention/out/kernel"}
    blind |= {"transformer/decoder/0/residuals/0/norm/scale"}
    for name, gradient in grads.items():
        reached = bool(np.abs(gradient).max() > 1e-7)
        assert reached == (name not in blind and not name.endswith("key/bias")), name


def test_micro_batches_are_strided_over_the_batch():
    parts = step.split_batch(make_batch(), 2)
    assert parts.image_ids.tolist() == [[0, 2], [1, 3]]
    np.testing.assert_array_equal(parts.inputs.pixels[1], make_batch().inputs.pixels[[1, 3]])


# --- Photos that the step looks at itself ---


def test_photos_give_the_step_of_their_views(stepper, state):
    """Resized by the host and by the step, the latter in micro-batches: the same but for a level here and there."""
    rng, sizes = np.random.default_rng(3), np.array([[40, 44], [48, 30], [24, 48], [20, 20]], np.int32)
    data = DataConfig(
        scales=(20, 24), max_size=32, crop_scales=(26, 36), crop_min=18, crop_max=30, flip_vertical=0.5
    )  # fmt: skip
    views = augmentation.views(sizes, rng.random((4, augmentation.DRAWS)), data)
    on_host, photos = np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8)
    for row, (h, w) in enumerate(sizes):
        photo = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((w, h)))
        photos[row, :h, :w] = photo
        height, width = views.size[row]
        augmentation.apply_to_pixels(photo, views.take(row), on_host[row, :height, :width])
    batch = make_batch()
    of_pixels = batch._replace(inputs=batch.inputs._replace(pixels=on_host, sizes=views.size))
    of_photos = batch._replace(inputs=Photos(photos, sizes, views, canvas=(32, 32), crop_max=30))
    _, found = compile_step(make_small_recipe({"train.accum_steps": 2}))(state, of_photos)
    _, wanted = stepper(state, of_pixels)
    for name in ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-2, err_msg=name)


# --- One step ---


def test_step_changes_what_is_trained_and_counts(recipe, stepper, state):
    new, metrics = stepper(state, make_batch())
    assert int(new.step) == 1 and int(new.skipped) == 0 and int(metrics["skipped"]) == 0
    assert_equal(new.frozen, state.frozen)
    assert all(np.any(new.params[name] != state.params[name]) for name in state.params if name.endswith("kernel"))
    wanted = {"loss", "class_error", "grad_norm", "skipped", "broken_images", "matcher_turns", "matcher_nonfinite"}
    for name in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        wanted |= {name, f"{name}_0"}  # two decoder layers
    assert set(metrics) == wanted
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    total = sum(weight * (metrics[name] + metrics[f"{name}_0"]) for name, weight in weights.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def test_loss_falls(stepper, state):
    first = None
    for _ in range(12):
        state, metrics = stepper(state, make_batch())
        first = first or float(metrics["loss"])
    assert float(metrics["loss"]) < 0.9 * first


def test_average_by_hand(stepper, state):
    new, _ = stepper(state, make_batch())
    newer, _ = stepper(new, make_batch())
    for name, start in state.params.items():
        once = 0.9 * start + 0.1 * new.params[name]
        np.testing.assert_allclose(newer.average[name], 0.9 * once + 0.1 * newer.params[name], atol=1e-6, err_msg=name)
    assert newer.arrays.keys() == state.params.keys() | state.frozen.keys()
    np.testing.assert_array_equal(newer.arrays["class_head/bias"], newer.average["class_head/bias"])


@pytest.mark.parametrize("what", ["NaN in a parameter", "infinite boxes", "NaN boxes"])
def test_a_step_that_is_not_finite_is_left_out_and_counted(what, stepper, state):
    state, _ = stepper(state, make_batch())  # an optimizer state that is not zero
    batch = make_batch()
    if what == "NaN in a parameter":
        state.params["box_head/layers/2/bias"] = state.params["box_head/layers/2/bias"] * np.nan
    else:
        batch.targets.boxes[2, 1] = np.inf if what == "infinite boxes" else np.nan
    new, metrics = stepper(state, batch)
    for kept in ("params", "optimizer", "average", "frozen"):
        assert_equal(getattr(new, kept), getattr(state, kept))
    assert int(metrics["skipped"]) == int(new.skipped) == int(new.skipped_in_a_row) == 1
    assert int(new.step) == 2 and not np.isfinite(metrics["loss"])
    if what != "NaN in a parameter":  # the next good step goes on
        after, metrics = stepper(new, make_batch())
        assert int(after.skipped) == 1 and int(after.skipped_in_a_row) == 0 and int(metrics["skipped"]) == 0


def test_bfloat16_and_dropout_and_frozen_parts(arrays):  # together, to compile once
    frozen = ("backbone", "transformer/encoder")
    recipe = make_small_recipe(
        {"dtype": "bfloat16", "model.dropout": 0.3, "freeze": frozen, "train.average_decay": 0.0}
    )
    state, run = init_state(arrays, recipe), compile_step(recipe)
    (new, first), (_, again) = run(state, make_batch()), run(state, make_batch())
    assert all(np.isfinite(value) for value in first.values()) and int(first["skipped"]) == 0
    assert all(array.dtype == jnp.float32 for array in new.params.values())

    assert first["loss"] == again["loss"]  # dropout follows the step number, and nothing else
    assert run(state._replace(step=state.step + 1), make_batch())[1]["loss"] != first["loss"]

    assert not any(name.startswith(frozen) for name in new.params)
    assert_equal(new.frozen, {name: array for name, array in arrays.items() if name.startswith(frozen)})
    assert new.params.keys() | new.frozen.keys() == arrays.keys()


def test_nothing_is_compiled_twice(stepper, state):
    state, _ = stepper(state, make_batch())
    compiled = stepper._cache_size()
    for seed in range(3):
        state, _ = stepper(state, make_batch((seed, 1, 0, 2), seed))
    assert stepper._cache_size() == compiled


# --- Figures of the layers ---


def test_figures_are_named_by_their_layer():
    def terms(*values: float) -> losses.Terms:
        return losses.Terms(jnp.array(values), 10 * jnp.array(values), 100 * jnp.array(values))

    errors = losses.Errors(jnp.array(3.0), jnp.array(4.0), jnp.array([2.0, 4.0, 6.0]), jnp.array(2.0))
    by_part = {"": terms(1, 2), "_enc": terms(3), "_dn": terms(4, 5)}
    named = step.name_figures(step.Sums(by_part, errors, jnp.array(7), jnp.array(0)))
    ce = {"loss_ce_0": 1, "loss_ce": 2, "loss_ce_enc": 3, "loss_ce_dn_0": 4, "loss_ce_dn": 5}
    assert {name: float(value) for name, value in named.items()} == {
        **ce,
        **{name.replace("ce", "bbox"): 10 * value for name, value in ce.items()},
        **{name.replace("ce", "giou"): 100 * value for name, value in ce.items()},
        "class_error": 25.0,
        "cardinality_error_enc": 1.0,
        "cardinality_error_0": 2.0,
        "cardinality_error": 3.0,
        "matcher_turns": 7.0,
        "matcher_nonfinite": 0.0,
    }


def test_figures_of_a_fast_model_are_those_of_its_layers():
    """Counted by hand from what the network says: the encoder's proposals are "_enc", the first decoder layer "_0"."""
    recipe, batch = make_small_recipe(FAST), make_batch()
    arrays = dict(jit(recipe.network.init)(jax.random.key(1, impl="rbg")))
    for name in [name for name in arrays if "class_head" in name]:  # so that every layer claims another number
        kernel = jax.random.normal(jax.random.key(0), arrays[name].shape)
        arrays[name] = kernel if name.endswith("kernel") else jnp.full_like(arrays[name], -6.0)
    state = init_state(arrays, recipe)
    _, metrics = compile_step(recipe)(state, batch)
    noised = add_noise(batch.targets, 2, CLASSES, jax.random.key(3, impl="rbg"))  # does not touch the other queries
    predictions = jit(recipe.network.apply)(arrays, batch.inputs, None, noised)
    assert predictions.logits.shape[0] == 2 and predictions.proposals.logits.shape[0] == 1
    layers = {
        "_enc": predictions.proposals,
        "_0": Predictions(predictions.logits[:1], predictions.boxes[:1]),
        "": Predictions(predictions.logits[1:], predictions.boxes[1:]),
    }
    objects, found = batch.targets.valid.sum(axis=1), set()
    divisors = losses.make_normalizers(batch.targets, 6, recipe.class_loss)
    for suffix, layer in layers.items():
        claimed = (np.asarray(layer.logits[0]).max(axis=-1) > 0).sum(axis=-1)  # a sigmoid above one half
        wanted = np.abs(claimed - objects).mean()
        assert float(metrics[f"cardinality_error{suffix}"]) == pytest.approx(wanted), suffix
        found.add(wanted)
        matches = matcher.match(layer, batch.targets, recipe.config.loss, recipe.class_loss)
        terms = losses.set_losses(layer, batch.targets, matches.query_of_target, divisors, recipe.class_loss)
        for name, values in terms._asdict().items():
            np.testing.assert_allclose(metrics[name + suffix], values[0], rtol=1e-4, err_msg=name + suffix)
    assert len(found) == 3


# --- One program ---


def test_one_program_serves_every_seed_rate_and_length():
    """Else a sweep would compile for each of its runs."""

    def lower(**changes) -> str:
        recipe = make_small_recipe({"optim.schedule": "cosine", **changes})
        state = jax.eval_shape(lambda: init_state(recipe.network.init(jax.random.key(0)), recipe))
        return jax.jit(lambda state, batch: step.train_step(state, batch, recipe)).lower(state, make_batch()).as_text()

    text = lower()
    assert lower(**{"optim.lr": 3e-4, "optim.lr_backbone": 1e-6, "optim.weight_decay": 0.3, "seed": 7}) == text
    assert lower(**{"optim.warmup_steps": 50, "train.steps": 7}) == text
    assert lower(**{"optim.clip_norm": 0.3}) != text  # the comparison can fail
