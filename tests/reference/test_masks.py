"""Mask logits of every query against transformers' DetrForSegmentation, alone and inside a padded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import peer
import pytest
import torch

from detr_jax.structures import Pixels

MASKS, LOGITS, BOXES = 1e-4, 1e-4, 1e-5
QUERIES = 20
VARIANTS = {
    "r50": {"num_queries": QUERIES, "num_classes": 250},
    "narrow": peer.NARROW | {"heads": 8},
    "narrow_dc5": peer.NARROW | {"heads": 8, "dilation": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    """A mask model of each kind, and its compiled forward pass here, in which ``chosen`` queries get masks."""
    built = peer.build(seed=20, masks=True, **VARIANTS[request.param])

    @jax.jit
    def forward(arrays, images, sizes, chosen):
        return built.network.apply(arrays, Pixels(images, sizes), lambda _: chosen, method="with_masks")

    return built, forward


def theirs(built: peer.Peer, image: np.ndarray):
    """The peer's (logits, boxes, masks) for one image without padding."""
    with torch.no_grad():
        found = built.model(peer.pixels(image), pixel_mask=torch.ones(image.shape[:3], dtype=torch.long))
    return [tensor.numpy() for tensor in (found.logits, found.pred_boxes, found.pred_masks)]


def every_query(batch: int) -> np.ndarray:
    return np.broadcast_to(np.arange(QUERIES), (batch, QUERIES))


def check(record, masks, wanted):
    assert masks.shape == wanted.shape and wanted.std() > 0.1
    record("masks", peer.largest(masks, wanted))
    assert peer.largest(masks, wanted) <= MASKS


@pytest.mark.parametrize("size", [(128, 160), (131, 93)])  # whole strides, and a remainder at each
def test_masks(pair, size, differences):
    built, forward = pair
    image = peer.noise(sum(size), 1, *size)
    ours, our_masks = forward(built.arrays, image, np.array([size]), every_query(1))
    logits, boxes, masks = theirs(built, image)
    check(differences, our_masks, masks)
    assert peer.largest(ours.logits[-1], logits) <= LOGITS and peer.largest(ours.boxes[-1], boxes) <= BOXES


def test_padding_is_inert(pair, differences):
    """Images of different sizes in one canvas give the masks that each has alone; for some queries, in any order."""
    built, forward = pair
    sizes = np.array([[128, 96], [97, 131], [65, 110]])
    canvas = np.zeros((3, 144, 160, 3), np.uint8)
    alone = [peer.noise(row, 1, *size) for row, size in enumerate(sizes)]
    for row, (image, (height, width)) in enumerate(zip(alone, sizes, strict=True)):
        canvas[row, :height, :width] = image[0]
    chosen = np.array([[3, 0, 19], [7, 7, 1], [12, 18, 2]])
    _, together = forward(built.arrays, canvas, sizes, chosen)
    for row, image in enumerate(alone):
        *_, masks = theirs(built, image)
        wanted = masks[0, chosen[row]]
        check(differences, together[row, :, : wanted.shape[1], : wanted.shape[2]], wanted)


def test_queries_are_chosen_by_what_was_predicted(pair):
    built, forward = pair
    image = peer.noise(1, 1, 96, 96)
    sizes = np.array([[96, 96]])

    def best(predictions):
        scores = jax.nn.softmax(predictions.logits[-1])[..., :-1].max(-1)
        return jax.lax.top_k(scores, 4)[1]

    apply = jax.jit(lambda arrays: built.network.apply(arrays, Pixels(image, sizes), best, method="with_masks"))
    predictions, masks = apply(built.arrays)
    _, every = forward(built.arrays, image, sizes, every_query(1))
    assert len(set(best(predictions)[0].tolist())) == 4
    np.testing.assert_allclose(masks[0], jnp.take(every[0], best(predictions)[0], axis=0), atol=1e-4)
