"""Canvases chosen from the images: little padding, nothing shrunk that need not be, the same every time."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from configs import detr, finetune
from detr_jax.batches.augmentation import resized_sizes
from detr_jax.batches.fitting import MORE, MOST, choose_canvases, fit_to_images
from detr_jax.batches.plan import make_evaluation_plan, make_train_plan
from detr_jax.benchmarks import coco_like
from detr_jax.config import Config
from detr_jax.config_check import check
from detr_jax.config_forms import from_config_dict
from detr_jax.datasets.coco import read_annotations
from detr_jax.structures import Bucket


def table(sizes, counts=None):
    sizes = np.array(sizes)
    counts = np.ones(len(sizes), int) if counts is None else np.array(counts)
    return SimpleNamespace(image_ids=np.arange(len(sizes)), sizes=sizes, target_counts=counts)


def settings(words: str = "r18_c4", module=finetune) -> Config:
    config = from_config_dict(module.get_config(words))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, buckets=()))


def padding(config: Config, images) -> float:
    """Of the first epoch, counted batch by batch."""
    plan = make_train_plan(config, images)
    batches = [plan[step] for step in range(plan.steps_per_epoch)]
    used = sum(int(batch.views.size.prod(axis=1).sum()) for batch in batches)
    return 1 - used / sum(batch.bucket.area * len(batch.rows) for batch in batches)


SETS = {
    "one size": [(480, 640)] * 50,
    "photos": [(480, 640), (640, 480), (427, 640), (640, 427), (500, 375)] * 20,
    "wide": [(375, 1242), (370, 1224)] * 30,
    "4k": [(2160, 3840)] * 20,
    "small": [(64, 64)] * 30,
    "strips": [(200, 2000)] * 20,
    "one strip among photos": [(480, 640)] * 50 + [(100, 3000)],
    "mixed": np.random.default_rng(0).integers(200, 1000, (200, 2)),
}


@pytest.mark.parametrize("words", ["r18_c4", "r50_c4"])
@pytest.mark.parametrize("name", SETS)
def test_images_keep_their_pixels_on_few_canvases_and_the_choice_can_be_typed(name, words):
    config, images = settings(words), table(SETS[name])
    fit = fit_to_images(config, images)
    assert fit == fit_to_images(config, images) and 1 <= len(fit.config.data.buckets) <= MORE
    check(fit.config)  # as flags of another start they are accepted,
    again = fit_to_images(fit.config, images)
    assert again.config == fit.config and not again.notes  # and nothing is chosen any more
    plan, areas = make_evaluation_plan(fit.config.data, images, 4), []
    for step in range(len(plan)):
        batch = plan[step]
        rows = batch.rows >= 0
        sizes = images.sizes[batch.rows[rows]]
        whole = resized_sizes(sizes, np.full(len(sizes), max(fit.config.data.scales)), fit.config.data.max_size)
        np.testing.assert_array_equal(batch.views.size[rows], whole)  # no canvas shrinks it
        areas.extend(whole.prod(axis=1))
    usual, shown = np.median(SETS[name], axis=0), np.median(areas)
    given = config.data.max_size / max(config.data.scales)
    budget = max(config.data.scales) ** 2 * min(given, 4 / 3)
    if usual.min() > 100:  # smaller images are not enlarged more than twofold
        assert 0.8 * budget < shown < 1.35 * budget
    else:
        assert shown == pytest.approx((2 * usual).prod())


@pytest.mark.parametrize("words", ["r18_c4", "r50_c4"])
@pytest.mark.parametrize("name", ["one size", "photos", "wide", "one strip among photos"])
def test_at_most_a_fifth_is_padding(name, words):
    images = table(SETS[name] * 8)
    fit = fit_to_images(settings(words), images)
    assert padding(fit.config, images) < 0.2 and len(fit.config.data.buckets) <= MOST
    assert fit.padding == pytest.approx(padding(fit.config, images), abs=0.05)


def test_for_coco_it_is_no_worse_than_the_eight_that_were_fitted_by_hand():
    images, config = coco_like.ImageSizes(seed=0), from_config_dict(detr.get_config("r50"))
    fit = fit_to_images(settings("r50", detr), images)
    assert padding(fit.config, images) <= padding(config, images)
    assert len(fit.config.data.buckets) <= len(config.data.buckets)
    assert (fit.config.data.scales, fit.config.data.max_size) == (config.data.scales, config.data.max_size)


@pytest.mark.parametrize(("dataset", "file"), [("bccd", "instances_train"), ("coco128", "instances_train2017")])
def test_on_real_photos(real_data, dataset, file):
    rows = read_annotations(real_data / dataset / "annotations" / f"{file}.json")["images"]
    images = table([(row["height"], row["width"]) for row in rows])
    fit = fit_to_images(settings(), images)
    assert padding(fit.config, images) < 0.15 and len(fit.config.data.buckets) <= MOST
    if dataset == "bccd":
        assert fit.config.data.buckets == (Bucket(288, 384, 8),)


def test_the_choice_is_the_best_there_is_on_small_problems():
    """Against every pair of canvases."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        sizes = rng.integers(1, 7, (12, 2)) * 16
        canvases, share = choose_canvases(sizes, sizes, 16)
        sides = range(16, 113, 16)
        every = np.array([*itertools.product(sides, sides)])
        area = every.prod(axis=1)
        holds = (every[:, None] >= sizes).all(axis=-1)
        cost = np.where(holds, area[:, None], 10**9)
        best = min(np.minimum(cost, cost[k]).sum(axis=1).min() for k in range(len(every)))
        assert len(canvases) >= 2 and share <= 1 - sizes.prod(axis=1).sum() / best + 1e-9


def test_slots_and_queries_come_from_the_counts():
    counts = [3] * 60 + [130]
    fit = fit_to_images(settings(), table([(480, 640)] * 60 + [(640, 480)], counts))
    assert fit.config.model.num_queries == 170 and max(bucket.targets for bucket in fit.config.data.buckets) == 136
    assert "model.num_queries=170" in fit.notes[0]
    make_train_plan(fit.config, table([(480, 640)] * 60 + [(640, 480)], counts))
    assert fit_to_images(settings(), table([(480, 640)] * 9)).config.model.num_queries == 80


class Boxes(SimpleNamespace):
    def __getitem__(self, row):
        return SimpleNamespace(boxes_xyxy_pixels=np.array([[0, 0, self.side, self.side]], np.float32))


def test_objects_that_the_model_cannot_see_are_told():
    large = Boxes(**vars(table([(2160, 3840)] * 30)), side=200)
    tiny = Boxes(**vars(table([(2160, 3840)] * 30)), side=20)
    assert fit_to_images(settings(), large).small == 0 and len(fit_to_images(settings(), large).notes) == 1
    fit = fit_to_images(settings(), tiny)
    assert fit.small == 1 and fit.notes[1].startswith("100% of the objects are under 8 pixels there")
    advised = int(fit.notes[1].partition('data.scales="(')[2].partition(",")[0])
    data = dataclasses.replace(settings().data, scales=(advised,), max_size=round(advised * 4 / 3))
    assert fit_to_images(dataclasses.replace(settings(), data=data), tiny).small == 0


def test_canvases_hold_what_is_evaluated_on_as_well():
    fit = fit_to_images(settings(), table([(480, 640)] * 30), table([(640, 480)]))
    assert any(bucket.height >= 384 and bucket.width >= 288 for bucket in fit.config.data.buckets)
