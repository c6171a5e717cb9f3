"""Logits and boxes after every decoder layer, and the encoder's memory, against the peer's."""

import numpy as np
import peer
import pytest

LOGITS, BOXES, MEMORY = 1e-4, 1e-5, 1e-4
VARIANTS = {
    "r50": {},
    "r50_dc5": {"dilation": True},
    "r101": {"backbone": "resnet101"},
    "r101_dc5": {"backbone": "resnet101", "dilation": True},
    "narrow_learned": peer.NARROW | {"position_embedding": "learned"},
    "narrow_r18": peer.NARROW | {"backbone": "resnet18"},
    "narrow_caffe": peer.NARROW | {"stride_in_1x1": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    """A detector of each kind, the published ones in full size, and its compiled forward pass here."""
    built = peer.build(seed=list(VARIANTS).index(request.param), **VARIANTS[request.param])
    return built, peer.forward(built.network)


def check(ours: peer.Outputs, theirs: peer.Outputs, record):
    for field, bound in zip(peer.Outputs._fields, (LOGITS, BOXES, MEMORY), strict=True):
        mine, wanted = np.asarray(getattr(ours, field)), getattr(theirs, field)
        assert mine.shape == wanted.shape and wanted.std() > 0.01
        difference = peer.largest(mine, wanted)
        record(field, difference)
        assert difference <= bound, f"{field}: {difference:.1e}"


@pytest.mark.parametrize("size", [(160, 208), (187, 131)])  # whole strides, and a remainder at each
def test_forward(pair, size, differences):
    built, forward = pair
    images = peer.noise(sum(size), 1, *size)
    check(forward(built.arrays, images, np.array([size])), peer.theirs(built, images), differences)


@pytest.mark.parametrize("dilation", [False, True])
def test_padding_is_inert(dilation, differences):
    """Three images of different sizes in one canvas equal each of them alone through the peer."""
    built = peer.build(seed=10, dilation=dilation)
    forward = peer.forward(built.network)
    sizes = np.array([[160, 200], [131, 187], [97, 218]])
    canvas = np.zeros((3, 192, 224, 3), np.uint8)
    alone = [peer.noise(row, 1, *size) for row, size in enumerate(sizes)]
    for row, (image, (height, width)) in enumerate(zip(alone, sizes, strict=True)):
        canvas[row, :height, :width] = image[0]
    together = forward(built.arrays, canvas, sizes)
    cells = [int(np.ceil(side / (16 if dilation else 32))) for side in canvas.shape[1:3]]
    for row, (image, size) in enumerate(zip(alone, sizes, strict=True)):
        wanted = peer.theirs(built, image)
        h, w = (int(np.ceil(side / (16 if dilation else 32))) for side in size)
        memory = np.asarray(together.memory[row]).reshape(*cells, -1)[:h, :w].reshape(1, h * w, -1)
        ours = peer.Outputs(together.logits[:, row : row + 1], together.boxes[:, row : row + 1], memory)
        check(ours, wanted, differences)
