"""What transformers' DETR said, once, of small random models; tests/reference asks it live and for the large ones."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from detr_jax.batches import augmentation
from detr_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from detr_jax.inference import postprocess
from detr_jax.models import detr
from detr_jax.models.resnet import normalize
from detr_jax.structures import Batch, Categories, Pixels, Targets
from detr_jax.training import losses, optimizer, step
from detr_jax.training.state import init_state

FOLDER = Path(__file__).parent / "golden"


class Golden(NamedTuple):
    """One file: its recipe's settings, its weights by our names, and everything else."""

    settings: dict
    weights: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def read(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz") as archive:
        held = {key: archive[key] for key in archive.files}
    recipe = json.loads(str(held.pop("recipe")))
    weights = {key.removeprefix("weights:"): held.pop(key) for key in list(held) if key.startswith("weights:")}
    return Golden(recipe["settings"], {key: value.astype(np.float32) for key, value in weights.items()}, held)


def model_config(settings: dict, **changes) -> ModelConfig:
    """The model's part of a recipe's settings."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    return ModelConfig(**{key: value for key, value in settings.items() if key in fields} | changes)


def network_of(settings: dict, **changes):
    return detr.network(model_config(settings, **changes), settings["num_classes"])


def test_files_are_small_and_say_how_they_were_made():
    for path in FOLDER.glob("*.npz"):
        assert path.stat().st_size < 1e6
        recipe = json.loads(str(np.load(path)["recipe"]))
        assert recipe["made by"] == "scripts/make_golden.py" and recipe["torch"] and recipe["transformers"]
    assert len(list(FOLDER.glob("*.npz"))) == 4


def batch_images(golden: Golden) -> Pixels:
    """The two images of different sizes on canvases of one size; each was alone where the numbers come from."""
    images = [golden.values["image:0"], golden.values["image:1"]]
    canvas = np.zeros((2, 96, 160, 3), np.uint8)
    for row, image in enumerate(images):
        canvas[row, : image.shape[0], : image.shape[1]] = image
    return Pixels(canvas, np.array([image.shape[:2] for image in images]))


@pytest.mark.parametrize("word", ["plain", "dilated"])
def test_detector(word):
    golden = read("detector")
    network = network_of(golden.settings, dilation=word == "dilated")
    predictions = jax.jit(network.apply)(golden.weights, batch_images(golden))
    for row in range(2):
        wanted = {field: golden.values[f"{word}:{row}:{field}"][:, 0] for field in ("logits", "boxes")}
        np.testing.assert_allclose(predictions.logits[:, row], wanted["logits"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(predictions.boxes[:, row], wanted["boxes"], rtol=0, atol=1e-5)


def test_masks():
    golden = read("masks")
    inputs = batch_images(golden)
    every = np.broadcast_to(np.arange(golden.settings["num_queries"]), (2, golden.settings["num_queries"]))
    apply = partial(network_of(golden.settings).apply, method="with_masks")
    _, masks = jax.jit(lambda arrays: apply(arrays, inputs, lambda _: every))(golden.weights)
    for row in range(2):
        wanted = golden.values[f"{row}:masks"]
        assert wanted.std() > 0.1
        found = masks[row, :, : wanted.shape[1], : wanted.shape[2]]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def make_recipe(settings: dict) -> step.Recipe:
    """The recipe of the peer's training: constant rates, every other setting as published."""
    optim = OptimConfig(
        lr=settings["rates"]["rest"], lr_backbone=settings["rates"]["backbone"], schedule="constant",
        weight_decay=settings["weight_decay"], clip_norm=settings["clip_norm"],
    )  # fmt: skip
    config = Config(model=model_config(settings), optim=optim)
    categories = Categories.from_rows([{"id": label} for label in range(settings["num_classes"])])
    return step.Recipe(config, network_of(settings), optimizer.make_hyperparameters(optim), categories)


def test_training():
    """Every term of the loss, the gradient of every parameter, and five steps of AdamW with clipping."""
    golden = read("training")
    values, recipe = golden.values, make_recipe(golden.settings)
    state = init_state({key: jax.numpy.asarray(array) for key, array in golden.weights.items()}, recipe)
    targets = Targets(*(values[f"targets:{field}"] for field in Targets._fields))
    count, *size, _ = values["images"].shape
    inputs = Pixels(values["images"], np.tile(np.array(size, np.int32), (count, 1)))
    batch = Batch(inputs, targets, np.arange(count))

    gradients = jax.jit(partial(step.compute_gradients, recipe=recipe))

    @jax.jit
    def update(state, found):
        clipped, norm = optimizer.clip_by_norm(found, recipe.config.optim.clip_norm)
        updates, opt_state = recipe.tx.update(clipped, state.optimizer, state.params, numbers=state.numbers)
        return state._replace(params=optax.apply_updates(state.params, updates), optimizer=opt_state), norm

    for number, (total, norm) in enumerate(zip(values["totals"], values["norms"], strict=True)):
        found, sums = gradients(state, batch)
        state, found_norm = update(state, found)
        found_total = losses.total_loss(sums.terms.values(), recipe.config.loss)
        np.testing.assert_allclose(found_total, total, rtol=1e-5 if number == 0 else 1e-4)
        np.testing.assert_allclose(found_norm, norm, rtol=1e-4 if number == 0 else 1e-3)
        if number == 0:
            check_terms_and_gradients(step.name_figures(sums), found, values, norm)


def check_terms_and_gradients(figures, gradients, values, norm):
    wanted = {key.partition(":")[2]: value for key, value in values.items() if key.startswith("gradient:")}
    assert gradients.keys() == wanted.keys()
    terms = {name: term for name, term in figures.items() if name.startswith("loss_")}
    assert len(terms) == 6  # three in each of two layers
    for name, term in terms.items():
        np.testing.assert_allclose(term, values[f"term:{name}"], rtol=0, atol=1e-5, err_msg=name)
    for name, gradient in wanted.items():
        # Some are zero but for rounding: of a key's bias, and of the first attention among the queries.
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-4 * np.linalg.norm(gradient) + 1e-7 * norm, name


def test_pixels():
    golden = read("pixels")
    image = golden.values["image"]
    settings = augmentation.evaluation_settings(DataConfig(scales=(golden.settings["short side"],)))
    view = augmentation.views(np.array([image.shape[:2]]), np.zeros((1, augmentation.DRAWS)), settings).take(0)
    pixels, _, _ = augmentation.apply(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), view)
    found = normalize(pixels[None], np.array([pixels.shape[:2]]), np.float32)[0]
    np.testing.assert_allclose(found, golden.values["normal"], rtol=0, atol=1e-6)


def test_detections():
    golden = read("pixels")
    values = golden.values
    classes = values["logits"].shape[-1] - 1
    categories = Categories(tuple(range(10, 10 + classes)), tuple(f"class {number}" for number in range(classes)))
    size = tuple(golden.settings["original size"])
    found = postprocess.make_detections(*postprocess.top_class(values["logits"], values["boxes"]), size, categories)
    order = np.argsort(-values["found:scores"], kind="stable")
    np.testing.assert_allclose(found.scores, values["found:scores"][order], atol=1e-6)
    np.testing.assert_array_equal(found.labels, values["found:labels"][order])
    np.testing.assert_allclose(found.boxes_xyxy, values["found:boxes"][order], atol=1e-4)
