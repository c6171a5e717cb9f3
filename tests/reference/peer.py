"""The peer: transformers' DETR with random weights, and this project's network with the same arrays.

Every weight is drawn so that nothing passes by being 0 or 1: batch-norm statistics and affine values, layer norms and
biases are random too, and linear layers are wide enough for attention to look at something.
"""

from collections.abc import Mapping
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import torch
from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation, ResNetConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from detr_jax.config import ARCHITECTURES, ModelConfig
from detr_jax.models import detr
from detr_jax.models.network import Network
from detr_jax.models.transformer import Transformer
from detr_jax.structures import Pixels, Predictions, Targets
from detr_jax.weights import torch_names

PUBLISHED = {
    "num_classes": 91, "backbone": "resnet50", "backbone_width": 64, "last_stage": "layer4", "dilation": False,
    "stride_in_1x1": False, "norm": "frozen_batch", "position_embedding": "sine", "position_temperature": 10000.0,
    "hidden_dim": 256, "heads": 8, "encoder_layers": 6, "decoder_layers": 6, "feed_forward_dim": 2048, "dropout": 0.0,
    "num_queries": 100, "pre_norm": False, "masks": False,
}  # fmt: skip
# Bottlenecks, every kind of layer, and yet small: what can be trained for twenty steps, or stored in a golden file.
NARROW = {
    "num_classes": 7, "backbone_width": 8, "hidden_dim": 64, "heads": 4, "encoder_layers": 2, "decoder_layers": 2,
    "feed_forward_dim": 96, "num_queries": 20,
}  # fmt: skip


def network_of(settings: Mapping) -> Network:
    """This project's network with these settings: those of ``ModelConfig``, and ``num_classes``."""
    model = {name: value for name, value in settings.items() if name != "num_classes"}
    return detr.network(ModelConfig(**model), settings["num_classes"])


class Peer(NamedTuple):
    """The same detector twice."""

    model: DetrForObjectDetection | DetrForSegmentation
    network: Network
    arrays: dict[str, np.ndarray]


class Outputs(NamedTuple):
    """What a detector says of a batch."""

    logits: np.ndarray  # [L B N K+1]
    boxes: np.ndarray  # [L B N 4]
    memory: np.ndarray  # [B S D], the encoder's output


def build(seed: int = 0, **changes) -> Peer:
    """The published R50 without dropout, with ``changes`` to the settings of its model or to ``num_classes``."""
    settings = PUBLISHED | changes
    depths, bottleneck, _ = ARCHITECTURES[settings["backbone"]]
    backbone = ResNetConfig(
        out_features=[f"stage{stage}" for stage in range(1 if settings["masks"] else 4, 5)],
        depths=list(depths),
        layer_type="bottleneck" if bottleneck else "basic",
        embedding_size=settings["backbone_width"],
        hidden_sizes=[settings["backbone_width"] * 2**stage * (4 if bottleneck else 1) for stage in range(4)],
        downsample_in_bottleneck=settings["stride_in_1x1"],
    )
    model = (DetrForSegmentation if settings["masks"] else DetrForObjectDetection)(
        DetrConfig(
            backbone_config=backbone,
            num_labels=settings["num_classes"],
            num_queries=settings["num_queries"],
            d_model=settings["hidden_dim"],
            encoder_attention_heads=settings["heads"],
            decoder_attention_heads=settings["heads"],
            encoder_layers=settings["encoder_layers"],
            decoder_layers=settings["decoder_layers"],
            encoder_ffn_dim=settings["feed_forward_dim"],
            decoder_ffn_dim=settings["feed_forward_dim"],
            position_embedding_type=settings["position_embedding"],
            dropout=settings["dropout"],
            attention_dropout=settings["dropout"],
            activation_dropout=settings["dropout"],
        )
    )
    randomise(model, seed)
    detector = model.detr if settings["masks"] else model
    if settings["dilation"]:
        dilate(detector)
    freeze(detector)
    network = network_of(settings)
    arrays = to_here(model, model.state_dict())
    assert arrays.keys() == network.shapes.keys(), sorted(arrays.keys() ^ network.shapes.keys())
    return Peer(model.eval(), network, arrays)


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter and statistic from ``seed``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.uniform_(low, high, generator=generator)

    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.2, generator=generator)
        elif name.endswith("running_var"):
            uniform(tensor, 0.5, 1.5)
        elif "norm" in name and name.endswith("weight"):
            uniform(tensor, 0.5, 1.2)
        elif name.endswith("bias"):
            tensor.normal_(0, 0.1, generator=generator)
        elif tensor.ndim == 4:  # convolutions keep the scale of what passes
            tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5, generator=generator)
        elif "position" in name:
            tensor.normal_(0, 1, generator=generator)
        elif tensor.ndim == 2:  # sharp attention and weak mixing: else all cells, and all queries, become one
            sharp, crossed = "q_proj" in name or "k_proj" in name, "encoder_attn" in name
            gain = (2.5 if sharp else 0.7) * (2 if crossed else 1) * (1.4 if "predictor" in name else 1)
            uniform(tensor, -gain * (6 / sum(tensor.shape)) ** 0.5, gain * (6 / sum(tensor.shape)) ** 0.5)


def dilate(model: DetrForObjectDetection) -> None:
    """Gives the last stage the strides and dilations of DC5 (torchvision's ``replace_stride_with_dilation``)."""
    blocks = model.model.backbone.model.encoder.stages[3].layers
    blocks[0].shortcut.convolution.stride = (1, 1)
    blocks[0].layer[1].convolution.stride = (1, 1)
    for block in blocks[1:]:
        block.layer[1].convolution.dilation = (2, 2)
        block.layer[1].convolution.padding = (2, 2)


def freeze(model: DetrForObjectDetection) -> None:
    """Freezes what the original does: stem and layer1. transformers freezes its own ResNet wholly, by a wrong name."""
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(any(f"stages.{stage}." in name for stage in (1, 2, 3)))


def to_here(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors by the live model's names -> arrays by ours, through the names that ``save_pretrained`` writes."""
    saved = revert_weight_conversion(model, {name: tensor.detach() for name, tensor in tensors.items()})
    masks = isinstance(model, DetrForSegmentation)
    table = torch_names.panoptic(torch_names.HUGGINGFACE) if masks else torch_names.HUGGINGFACE
    arrays, unknown = torch_names.to_here(
        {name: tensor.numpy() for name, tensor in saved.items() if tensor.ndim}, table
    )
    assert not unknown, unknown
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def noise(seed: int, *shape: int) -> np.ndarray:
    """Random uint8 images [... 3] with structure at all scales, so that positions matter."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (*shape[:-2], shape[-2] // 16 + 1, shape[-1] // 16 + 1, 3))
    image = coarse.repeat(16, -3).repeat(16, -2)[..., : shape[-2], : shape[-1], :]
    return (0.6 * image + 0.4 * rng.integers(0, 256, image.shape)).astype(np.uint8)


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [B H W 3] -> normalised [B 3 H W], the original's ToTensor and Normalize in float64."""
    normal = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def outputs(model: DetrForObjectDetection, images: np.ndarray) -> Outputs:
    """The peer's outputs as live tensors, for uint8 images [B H W 3] without padding.

    The decoder layers are listened to and normed here: with ``auxiliary_loss`` transformers feeds each layer's *normed*
    output to the next one (and norms the last one twice), which the original does not.
    """
    decoder, states = model.model.decoder, []
    listeners = [layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in decoder.layers]
    whole = torch.ones(images.shape[:3], dtype=torch.long)
    memory = model.model(pixel_values=pixels(images), pixel_mask=whole).encoder_last_hidden_state
    for listener in listeners:
        listener.remove()
    hidden = decoder.layernorm(torch.stack(states))
    return Outputs(model.class_labels_classifier(hidden), model.bbox_predictor(hidden).sigmoid(), memory)


def theirs(peer: Peer, images: np.ndarray) -> Outputs:
    """The peer's outputs as arrays; its last layer is checked against what its own forward gives."""
    with torch.no_grad():
        found = outputs(peer.model, images)
        whole = torch.ones(images.shape[:3], dtype=torch.long)
        plain = peer.model(pixel_values=pixels(images), pixel_mask=whole)
    assert largest(found.logits[-1], plain.logits) < 1e-5 and largest(found.boxes[-1], plain.pred_boxes) < 1e-6
    return Outputs(*(tensor.numpy() for tensor in found))


def targets(seed: int, counts: list[int], classes: int) -> Targets:
    """Random objects; slots past an image's count hold numbers that must not matter."""
    rng = np.random.default_rng(seed)
    slots = 64
    size = rng.uniform(0.02, 0.6, (len(counts), slots, 2))
    center = rng.uniform(size / 2, 1 - size / 2)
    return Targets(
        np.concatenate([center, size], axis=-1).astype(np.float32),
        rng.integers(0, classes, (len(counts), slots)).astype(np.int32),
        np.arange(slots)[None] < np.array(counts)[:, None],
    )


def loss(outputs: Outputs, wanted: Targets) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The total that transformers' copy of the original's criterion gives for live outputs, and its named terms."""
    logits, boxes, _ = outputs
    labels = [
        {"boxes": torch.tensor(boxes[valid]), "class_labels": torch.tensor(labels[valid], dtype=torch.long)}
        for boxes, labels, valid in zip(*wanted, strict=True)
    ]
    config = DetrConfig(num_labels=logits.shape[-1] - 1, decoder_layers=len(logits), auxiliary_loss=True)
    total, terms, _ = ForObjectDetectionLoss(logits[-1], labels, "cpu", boxes[-1], config, logits, boxes)
    return total, terms


def forward(network: Network):
    """The jitted (arrays, images, sizes) -> ``Outputs`` of our network; memory is caught as it leaves the encoder."""
    encode = Transformer.encode

    def both(arrays, images, sizes):
        caught = []

        def catching(transformer, *inputs):
            caught.append(encode(transformer, *inputs))
            return caught[-1]

        with mock.patch.object(Transformer, "encode", catching):
            predictions: Predictions = network.apply(arrays, Pixels(images, sizes))
        return Outputs(predictions.logits, predictions.boxes, caught[0][0])

    return jax.jit(both)


def largest(a, b) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def relative(a, b) -> float:
    """Norm of the difference over norm of ``b``."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
