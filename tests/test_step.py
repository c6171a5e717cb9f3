"""One training step: gradients, clipping, AdamW, skipping, accumulation and devices, each against something simpler."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import detr as configs
from detr_jax.inference import detector
from detr_jax import cli, devices
from detr_jax.batches import augmentation
from detr_jax.structures import Batch, Targets
from detr_jax.training import losses, matcher, optimizer, step
from detr_jax.training.class_loss import Softmax

CLASSES, SLOTS = 3, 4
RATES = optimizer.LearningRates(rest=1e-3, backbone=1e-4)
# Half the time to compile; the numbers are the same but for rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def network(dtype: str = "float32", remat: bool = False, **model):
    config = configs.get_config("debug")
    settings = dict(backbone_width=8, last_stage="layer2", norm="frozen_batch", num_queries=6, dropout=0.0)
    config.model.update(settings | model)
    config.dtype, config.train.remat = dtype, remat
    return detector.build_network(cli.plain(config), CLASSES)


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def arrays(net):
    return jit(net.init)(jax.random.key(0, impl="rbg"))


def make_batch(counts=(1, 0, 4, 2), seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    images = len(counts)
    valid = np.arange(SLOTS)[None] < np.array(counts)[:, None]
    targets = Targets(
        np.where(valid[..., None], rng.uniform(0.2, 0.5, (images, SLOTS, 4)), 0).astype(np.float32),
        np.where(valid, rng.integers(0, CLASSES, valid.shape), 0).astype(np.int32),
        valid,
    )
    sizes = rng.integers(20, 33, (images, 2)).astype(np.int32)
    pixels = rng.integers(0, 256, (images, 32, 32, 3)).astype(np.uint8)
    return Batch(pixels, sizes, targets, np.arange(images, dtype=np.int32))


def recipe(**changes) -> step.Recipe:
    settings = step.Recipe(
        cost_weights=matcher.CostWeights(),
        loss_weights=losses.LossWeights(),
        class_loss=Softmax(0.1),
        auxiliary=True,
        normalizer_groups=1,
        clip_norm=0.1,
        accum_steps=1,
        average_decay=0.0,
        seed=0,
    )
    return settings._replace(**changes)


def adamw(weight_decay: float = 1e-2):
    return optimizer.adamw(RATES, optimizer.schedule("constant", 100, 50), weight_decay)


def compiled_step(net, settings: step.Recipe, **more):
    return jit(functools.partial(step.train_step, network=net, tx=adamw(), recipe=settings, **more))


def gradients_of(net, state, batch, settings):
    return jit(lambda state, batch: step.gradients(state, batch, net, settings))(state, batch)


def assert_close(one: dict, other: dict, relative: float) -> None:
    """Every array, to ``relative`` of its largest value (a sum in another order has no fixed error per element)."""
    assert one.keys() == other.keys()
    for name in one:
        scale = max(float(np.abs(other[name]).max()), 1e-2)
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=relative * scale, err_msg=name)


def assert_equal(one, other) -> None:
    """Bit for bit, also where both are NaN."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def stepper(net):
    """The step of the tests that need no other settings, compiled once."""
    return compiled_step(net, recipe(average_decay=0.9))


@pytest.fixture
def state(net, arrays):
    return step.init_state(arrays, net, (), adamw(), 0.9)


# --- Gradients ---


@pytest.fixture(scope="module")
def whole(net, arrays):
    """(gradients, loss terms, errors, matcher figures) of the batch in one piece."""
    return gradients_of(net, step.init_state(arrays, net, (), adamw(), 0.0), make_batch(), recipe())


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulation_gives_the_gradient_of_one_big_batch(parts, net, arrays, whole):
    state = step.init_state(arrays, net, (), adamw(), 0.0)
    cut = gradients_of(net, state, make_batch(), recipe(accum_steps=parts))
    difference = jax.tree.map(jnp.subtract, cut[0], whole[0])
    assert optax.global_norm(difference) < 1e-6 * optax.global_norm(whole[0])
    assert_close(cut[0], whole[0], 1e-5)
    for name, values in whole[1].items():
        np.testing.assert_allclose(cut[1][name], values, rtol=1e-5, err_msg=name)
    assert_equal(cut[2], whole[2])


def test_rematerialisation_computes_more_and_gives_the_same(net, arrays, whole):
    again, state, batch = network(remat=True), step.init_state(arrays, net, (), adamw(), 0.0), make_batch()
    found = gradients_of(again, state, batch, recipe())
    assert_close(found[0], whole[0], 1e-5)
    assert_close(found[1], whole[1], 1e-5)

    def flops(net):  # as asked for: the CPU's compiler may undo it
        lowered = jax.jit(lambda state, batch: step.gradients(state, batch, net, recipe())[0]).lower(state, batch)
        return lowered.cost_analysis()["flops"]

    assert flops(again) > 1.1 * flops(net)


def test_gradients_reach_every_trained_array_and_no_other(net, whole):
    grads = whole[0]
    assert grads.keys() == net.shapes.keys() - net.frozen and net.frozen
    # The first self-attention of the decoder sees values of 0 and all its biases start at 0, so its output is 0;
    # a key's bias never matters.
    blind = {f"transformer/decoder/0/self_attention/{name}" for name in ("query/kernel", "query/bias", "key/kernel")}
    blind |= {"transformer/decoder/0/self_attention/value/kernel", "transformer/decoder/0/self_attention/out/kernel"}
    blind |= {"transformer/decoder/0/residuals/0/norm/scale"}
    for name, gradient in grads.items():
        reached = bool(np.abs(gradient).max() > 1e-7)
        assert reached == (name not in blind and not name.endswith("key/bias")), name


# --- Photos that the step looks at itself ---


def test_photos_give_the_step_of_their_views(net, stepper, state):
    """Resized by the host and by the step, the latter in micro-batches: the same but for a level here and there."""
    rng, sizes = np.random.default_rng(3), np.array([[40, 44], [48, 30], [24, 48], [20, 20]], np.int32)
    settings = augmentation.Augmentation(
        scales=(20, 24), max_size=32, crop_scales=(26, 36), crop_min=18, crop_max=30, flip_vertical=0.5
    )
    views = augmentation.views(sizes, rng.random((4, augmentation.DRAWS)), settings)
    on_host, photos = np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8)
    for row, (h, w) in enumerate(sizes):
        photo = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((w, h)))
        photos[row, :h, :w] = photo
        height, width = views.size[row]
        augmentation.pixels_seen(photo, views.take(row), on_host[row, :height, :width])
    batch = make_batch()._replace(images=on_host, sizes=views.size)
    of_photos = compiled_step(net, recipe(average_decay=0.9, accum_steps=2, crop_max=30), canvas=(32, 32))
    _, found = of_photos(state, batch._replace(images=photos, sizes=sizes, views=views))
    _, wanted = stepper(state, batch)
    for name in ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-2, err_msg=name)


# --- One step ---


def test_step_changes_what_is_trained_and_counts(net, stepper, state):
    new, metrics = stepper(state, make_batch())
    assert int(new.step) == 1 and int(new.skipped) == 0 and int(metrics["skipped"]) == 0
    assert_equal(new.frozen, state.frozen)
    assert all(np.any(new.params[name] != state.params[name]) for name in state.params if name.endswith("kernel"))
    wanted = {"loss", "class_error", "grad_norm", "skipped", "matcher_turns", "matcher_nonfinite"}
    for name in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        wanted |= {name, f"{name}_0"}  # two decoder layers
    assert set(metrics) == wanted
    total = sum(
        weight * (metrics[name] + metrics[f"{name}_0"]) for name, weight in losses.LossWeights()._asdict().items()
    )
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
    assert newer.best_params.keys() == state.params.keys() | state.frozen.keys()
    np.testing.assert_array_equal(newer.best_params["class_head/bias"], newer.average["class_head/bias"])


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
    net, frozen = network("bfloat16", dropout=0.3), ("backbone", "transformer/encoder")
    state, run = step.init_state(arrays, net, frozen, adamw(), 0.0), compiled_step(net, recipe())
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


# --- Devices ---


@pytest.mark.parametrize("shape", [(2, 1), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_two_devices_equal_one(shape, net, state, stepper, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 2048)  # so that (1, 2) really splits arrays of this small model
    mesh = jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:2]
    )
    sharded = jax.device_put(state, devices.state_sharding(mesh, state))
    split = [name for name, array in sharded.params.items() if not array.is_fully_replicated]
    assert bool(split) == (shape == (1, 2))
    batches = [jax.device_put(make_batch(seed=seed), devices.batch_sharding(mesh)) for seed in range(2)]
    run = compiled_step(net, recipe(average_decay=0.9), mesh=mesh)
    if shape == (2, 1):  # gradients are summed over the devices; no image leaves its own
        run = run.lower(sharded, batches[0]).compile()
        assert "all-reduce" in run.as_text() and not re.search(r"= \(?b?f\d+\[.* all-gather\(", run.as_text())
    for seed, batch in enumerate(batches):
        state, expected = stepper(state, make_batch(seed=seed))
        sharded, found = run(sharded, batch)
        for name in ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6 * (seed + 1), err_msg=name)
    assert_equal(sharded.frozen, state.frozen)
    # The moments, not the parameters: Adam divides by the gradient's own size, rounding errors included.
    assert_close(jax.device_get(sharded.optimizer[0].mu), jax.device_get(state.optimizer[0].mu), 1e-5)


def test_mesh_of_all_devices():
    devices = jax.device_count()
    assert dict(devices.make_mesh().shape) == {"data": devices, "fsdp": 1}
    assert dict(devices.make_mesh(devices).shape) == {"data": 1, "fsdp": devices}
    for fsdp in (0, devices + 1):
        with pytest.raises(cli.UserError, match="does not divide"):
            devices.make_mesh(fsdp)


# --- Optimizer ---


def test_clip_is_torchs_rule():
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    clipped, norm = optimizer.clip(gradients, 0.1)
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose(clipped["a"], [3 * 0.1 / (5 + 1e-6), 0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[4 * 0.1 / (5 + 1e-6)]], rtol=1e-6)
    for limit in (6.0, 0.0):  # below the limit, or no limit
        clipped, norm = optimizer.clip(gradients, limit)
        assert_equal(clipped, gradients)
        assert float(norm) == pytest.approx(5.0)


def test_norm_of_gradients_of_every_rank():
    rng = np.random.default_rng(0)
    shapes = [(), (7,), (5, 3), (3, 3, 4, 2)]
    gradients = {str(shape): jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes}
    assert float(optimizer.clip(gradients, 0.1)[1]) == pytest.approx(float(optax.global_norm(gradients)), rel=1e-6)


def test_adamw_equals_the_formulas():
    rng = np.random.default_rng(0)
    params = {"backbone/a/kernel": rng.normal(size=(3, 2)), "class_head/bias": rng.normal(size=4)}
    wanted = {name: array.copy() for name, array in params.items()}
    params = {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}
    tx = optimizer.adamw(RATES, optimizer.schedule("step", 100, 2), weight_decay=0.1, b2=0.99)
    opt_state = tx.init(params)
    first = {name: 0.0 for name in params}
    second = {name: 0.0 for name in params}
    for t in (1, 2, 3):
        gradients = {name: rng.normal(size=array.shape) for name, array in params.items()}
        for name, rate in (("backbone/a/kernel", RATES.backbone), ("class_head/bias", RATES.rest)):
            rate *= 0.1 if t == 3 else 1.0  # the third step is step 2, where the rate drops
            first[name] = 0.9 * first[name] + 0.1 * gradients[name]
            second[name] = 0.99 * second[name] + 0.01 * gradients[name] ** 2
            wanted[name] -= rate * 0.1 * wanted[name]
            corrected = first[name] / (1 - 0.9**t), second[name] / (1 - 0.99**t)
            wanted[name] -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        updates, opt_state = tx.update(
            {n: jnp.asarray(g, jnp.float32) for n, g in gradients.items()}, opt_state, params
        )
        params = {name: array + updates[name] for name, array in params.items()}
    for name in params:
        np.testing.assert_allclose(params[name], wanted[name], atol=1e-6, err_msg=name)


def test_groups_are_named_by_where_an_array_stands(net):
    groups = {name: optimizer.group_of(name) for name in net.shapes}
    assert all((group == "backbone") == name.startswith("backbone/") for name, group in groups.items())
    assert set(groups.values()) == set(optimizer.LearningRates._fields)


def test_schedules_at_chosen_steps():
    drops = optimizer.schedule("step", 1000, 400)
    np.testing.assert_allclose([drops(s) for s in (0, 399, 400, 799, 800)], [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
    cosine = optimizer.schedule("cosine", 1000, 400, floor=0.01)
    np.testing.assert_allclose([cosine(s) for s in (0, 500, 1000, 2000)], [1, 0.505, 0.01, 0.01], rtol=1e-5)
    constant = optimizer.schedule("constant", 1000, 400, warmup_steps=10)
    np.testing.assert_allclose([constant(s) for s in (0, 4, 9, 10, 900)], [0.1, 0.5, 1, 1, 1], rtol=1e-5)
    both = optimizer.schedule("step", 1000, 400, warmup_steps=10)
    np.testing.assert_allclose([both(s) for s in (0, 399, 400)], [0.1, 1, 0.1], rtol=1e-5)
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        optimizer.schedule("linear", 10, 5)


# Compiled, XLA turns a division by a constant into a product with its rounded reciprocal: 41 * (1 / 41) < 1.
@pytest.mark.parametrize("drop_step", [41, 47, 55, 61, 83, 1000])
def test_compiled_schedule_drops_at_every_multiple(drop_step):
    factor = jax.jit(optimizer.schedule("step", 10_000, drop_step))
    for multiple in (1, 2, 3):
        before, at = factor(multiple * drop_step - 1), factor(multiple * drop_step)
        np.testing.assert_allclose([before, at], [0.1 ** (multiple - 1), 0.1**multiple], rtol=1e-4)
