"""Writes tests/golden/*.npz: what transformers' DETR says, so that the plain test suite can ask it without torch.

    python scripts/make_golden.py        (needs tests/reference/requirements.txt)

Every file holds inputs, weights (rounded to float16 on both sides), expected results, and as ``recipe`` the settings,
seeds and versions that made them. The peer and its random weights are those of tests/reference/peer.py.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reference")]

import numpy as np  # noqa: E402
import peer  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil  # noqa: E402

SMALL = peer.NARROW | {"hidden_dim": 32, "feed_forward_dim": 48}
DETECTOR = SMALL | {"backbone_width": 4}
MASKS = SMALL | {"backbone": "resnet18", "backbone_width": 4, "heads": 8, "num_queries": 6, "masks": True}
TRAINING = SMALL | {"backbone": "resnet10"}
SIZES = [[96, 131], [77, 128]]
RATES = {"rest": 2e-4, "backbone": 2e-5}
STEPS = 5


def save(name: str, settings: dict, **arrays) -> None:
    recipe = {
        "made by": "scripts/make_golden.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": settings,
    }
    path = ROOT / "tests" / "golden" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, recipe=json.dumps(recipe), **arrays)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


def build_rounded(seed: int, settings: dict) -> tuple[peer.Peer, dict[str, np.ndarray]]:
    """The peer with weights that float16 holds exactly, and those weights by our names with 'weights:' before them."""
    built = peer.build(seed, **settings)
    with torch.no_grad():
        for tensor in [*built.model.parameters(), *built.model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    arrays = peer.to_here(built.model, built.model.state_dict())
    return built._replace(arrays=arrays), {f"weights:{name}": a.astype(np.float16) for name, a in arrays.items()}


def write_detector() -> None:
    """The forward pass of bottlenecks, plain and dilated, for images of two sizes."""
    expected = {}
    images = [peer.noise(row, 1, *size)[0] for row, size in enumerate(SIZES)]
    for word, dilation in (("plain", False), ("dilated", True)):
        built, weights = build_rounded(0, DETECTOR | {"dilation": dilation})
        for row, image in enumerate(images):
            for field, values in peer.theirs(built, image[None])._asdict().items():
                expected[f"{word}:{row}:{field}"] = values
    inputs = {f"image:{row}": image for row, image in enumerate(images)}
    save("detector", peer.PUBLISHED | DETECTOR | {"seed": 0}, **inputs, **weights, **expected)


def write_masks() -> None:
    """Mask logits of every query, for images of two sizes."""
    built, weights = build_rounded(2, MASKS)
    images = [peer.noise(row, 1, *size)[0] for row, size in enumerate(SIZES)]
    expected = {f"image:{row}": image for row, image in enumerate(images)}
    with torch.no_grad():
        for row, image in enumerate(images):
            whole = torch.ones((1, *image.shape[:2]), dtype=torch.long)
            expected[f"{row}:masks"] = built.model(peer.pixels(image[None]), pixel_mask=whole).pred_masks[0].numpy()
    save("masks", peer.PUBLISHED | MASKS | {"seed": 2}, **weights, **expected)


def write_training() -> None:
    """Losses by layer, the gradient of every parameter, and the first steps of AdamW on one batch."""
    built, weights = build_rounded(1, TRAINING)
    images, targets = peer.noise(5, 2, 64, 96), peer.targets(5, [2, 5], TRAINING["num_classes"])
    named = [(name, parameter) for name, parameter in built.model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in named if "backbone" not in name], "lr": RATES["rest"]},
        {"params": [p for name, p in named if "backbone" in name], "lr": RATES["backbone"]},
    ]
    adamw = torch.optim.AdamW(groups, weight_decay=1e-4)
    totals, norms, gradients, first_terms = [], [], {}, {}
    for number in range(STEPS):
        total, terms = peer.loss(peer.outputs(built.model, images), targets)
        adamw.zero_grad()
        total.backward()
        if number == 0:
            first_terms = {f"term:{name}": term.item() for name, term in terms.items()}
            gradients = peer.to_here(built.model, {name: parameter.grad.clone() for name, parameter in named})
        norms.append(torch.nn.utils.clip_grad_norm_([parameter for _, parameter in named], 0.1).item())
        adamw.step()
        totals.append(total.item())
    save(
        "training",
        peer.PUBLISHED | TRAINING | {"seed": 1, "rates": RATES, "weight_decay": 1e-4, "clip_norm": 0.1},
        images=images,
        **{f"targets:{field}": values[:, :8] for field, values in targets._asdict().items()},
        **weights,
        **first_terms,
        **{f"gradient:{name}": gradient for name, gradient in gradients.items()},
        totals=np.array(totals),
        norms=np.array(norms),
    )


def write_pixels() -> None:
    """transformers' preprocessing of one picture, and its post-processing of random predictions."""
    image = peer.noise(9, 61, 94)
    processor = DetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 1333})
    normal = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((20, 13))).astype(np.float32)
    boxes = (1 / (1 + np.exp(-rng.standard_normal((20, 4))))).astype(np.float32)
    outputs = SimpleNamespace(logits=torch.tensor(logits[None]), pred_boxes=torch.tensor(boxes[None]))
    (found,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(427, 640)])
    settings = {"short side": 96, "original size": [427, 640]}
    found = {f"found:{key}": values.numpy() for key, values in found.items()}
    save("pixels", settings, image=image, normal=normal.transpose(1, 2, 0), logits=logits, boxes=boxes, **found)


if __name__ == "__main__":
    write_detector()
    write_masks()
    write_training()
    write_pixels()
