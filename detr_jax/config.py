"""Every setting of a run, once: its default, its meaning, and what it may be.

``Config`` is what the package works with. ``config_forms.py`` turns it into ``ml_collections``, JSON and flags, and
back; ``config_check.py`` refuses what cannot be; ``docs/settings.md`` is made from the fields.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from detr_jax.structures import Bucket


class Architecture(NamedTuple):
    """A ResNet: blocks of each stage, bottlenecks (1x1, 3x3, 1x1) or pairs of 3x3 convolutions.

    A ``small_stem`` is two 3x3 convolutions of stride 2 instead of a 7x7 convolution and a pool.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    small_stem: bool = False


ARCHITECTURES = {
    "resnet10": Architecture((1, 1, 1, 1), bottleneck=False),  # for small datasets trained from scratch
    "resnet10_small": Architecture((1, 1, 1, 1), bottleneck=False, small_stem=True),  # and for small images
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
}
STAGES = ("layer1", "layer2", "layer3", "layer4")
# Fitted to 60,000 draws of the augmentation over COCO's image sizes, around the two that hold every image (long side
# 1333). 64 target slots hold all but a few of COCO's images (at most 93 objects), and matching costs time per slot.
COCO_BUCKETS = (
    Bucket(576, 768, 64), Bucket(672, 896, 64), Bucket(736, 992, 64), Bucket(800, 1120, 64), Bucket(800, 1344, 100),
    Bucket(864, 640, 64), Bucket(1024, 800, 64), Bucket(1344, 800, 100),
)  # fmt: skip


class Rule(NamedTuple):
    """What is known of a setting besides its type and default."""

    meaning: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    resumable: bool = False  # may differ between two starts of one run: it changes how often or how fast, not what
    length: bool = False  # of the run: resumable too, unless the schedule is stretched over it


def setting(default: Any, meaning: str, **rule: Any) -> Any:
    """A field of a settings class; ``rule`` holds further fields of ``Rule``."""
    return dataclasses.field(default=default, metadata={"rule": Rule(meaning, **rule)})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = setting("resnet50", "The ResNet.", choices=tuple(ARCHITECTURES))
    backbone_weights: str | None = setting(
        None,
        "Weights of the backbone to start from: a .npz, .safetensors or .pth file, or a name on the hub. Empty: random "
        "ones. Not read if init_from has a backbone that fits.",
    )
    backbone_width: int = setting(64, "Channels of the backbone's stem.", least=1)
    last_stage: str = setting("layer4", "Last stage of the backbone; layer3 (stride 16) is called C4.", choices=STAGES)
    dilation: bool = setting(False, "DC5: the last stage keeps its resolution and dilates instead.")
    stride_in_1x1: bool = setting(False, "Bottlenecks stride in their first 1x1 convolution, as in Caffe and Keras.")
    norm: str = setting(
        "frozen_batch",
        "Norm of the backbone. frozen_batch: for pretrained weights; the stem and layer1 are not trained. "
        "group: to train a backbone from scratch.",
        choices=("frozen_batch", "group"),
    )
    position_embedding: str = setting("sine", "Position encoding of the tokens.", choices=("sine", "learned"))
    position_temperature: float = setting(10000.0, "Temperature of the sines.", least=1e-6)
    hidden_dim: int = setting(256, "Width of the transformer.", least=1)
    heads: int = setting(8, "Attention heads.", least=1)
    encoder_layers: int = setting(6, "Layers of the encoder.", least=0)
    decoder_layers: int = setting(6, "Layers of the decoder.", least=1)
    feed_forward_dim: int = setting(2048, "Width inside the feed-forward layers.", least=1)
    dropout: float = setting(0.1, "Dropout of the transformer.", least=0.0, most=0.999)
    num_queries: int = setting(100, "Object queries: the most objects that can be found in an image.", least=1)
    pre_norm: bool = setting(False, "Layer norm before each sublayer instead of after it.")
    queries: str = setting(
        "learned",
        "Where object queries start. learned: the same for every image. selected: at the best tokens of the encoder "
        "(needs anchors).",
        choices=("learned", "selected"),
    )
    anchors: bool = setting(False, "Queries are boxes that every decoder layer refines (DAB-DETR).")
    focus: bool = setting(False, "Cross-attention looks around the anchors (SMCA; needs anchors).")
    finer_memory: bool = setting(False, "The decoder reads tokens at half the encoder's stride.")
    denoising: int = setting(
        0, "Groups of noised objects decoded beside the queries in training (DN-DETR; needs anchors).", least=0
    )
    class_scores: str = setting(
        "softmax",
        "softmax: with a no-object class and cross-entropy, as in the paper. sigmoid: one score per class and focal "
        "loss.",
        choices=("softmax", "sigmoid"),
    )
    masks: bool = setting(False, "The mask head of the panoptic models. It cannot be trained yet: freeze it.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how images are augmented and batched. Lengths are pixels."""

    name: str = setting("coco", "Dataset, as given to `dataset prepare`; coco/2017 as prepared by tfds.")
    dir: str = setting("data", "Folder of the prepared datasets.", resumable=True)
    train_split: str = setting("train", "Split to train on, such as train or train[:100].")
    val_split: str = setting("val", "Split to evaluate on.")
    scales: tuple[int, ...] = setting(
        tuple(range(480, 801, 32)), "Lengths of the short side; training draws one, evaluation takes the largest."
    )
    max_size: int = setting(1333, "Longest the long side may be; it wins over the scale.", least=1)
    flip: float = setting(0.5, "Probability of mirroring left and right.", least=0, most=1)
    flip_vertical: float = setting(
        0.0, "Probability of turning upside down, for images without an up: cells, aerial views.", least=0, most=1
    )
    crop: float = setting(0.5, "Probability of resizing and cropping before the final resize.", least=0, most=1)
    crop_scales: tuple[int, ...] = setting((400, 500, 600), "Lengths of the short side before the crop.")
    crop_min: int = setting(384, "Least length of each side of a crop.", least=1)
    crop_max: int = setting(600, "Greatest length of each side of a crop.", least=1)
    buckets: tuple[Bucket, ...] = setting(
        COCO_BUCKETS,
        "Canvases (height, width, target slots). The training step is compiled once for each. auto: canvases, scales, "
        "max_size and lengths of crops are chosen from the images, with as many pixels as an image of 4:3 has under "
        "the given ones; num_queries is raised if an image has more objects.",
    )
    resize: str = setting(
        "host",
        "Who resizes. host: Pillow, as in the original. fast: OpenCV where nothing shrinks. device: the training step.",
        choices=("host", "fast", "device"),
    )
    image_limits: tuple[int, ...] = setting(
        (100_000_000, 500_000_000),
        "Most pixels and most bytes of one image file; a larger one counts as broken. Decoding takes 3 to 10 bytes of "
        "memory a pixel, besides the file.",
    )
    max_bad_images: float = setting(
        0.01, "Fraction of a split's images that may be broken; more of them end the run.", least=0, most=1
    )
    strict: bool = setting(False, "The first broken image ends the run.")
    threads: int = setting(
        8, "Threads that read and decode images; 0: none besides the main one.", least=0, resumable=True
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and of the matching costs."""

    class_weight: float = setting(1.0, "Weight of the class term of the loss.", least=0)
    bbox_weight: float = setting(5.0, "Weight of the L1 term.", least=0)
    giou_weight: float = setting(2.0, "Weight of the generalised IoU term.", least=0)
    class_cost: float = setting(1.0, "Weight of the class in the matching cost.", least=0)
    bbox_cost: float = setting(5.0, "Weight of the L1 distance in the matching cost.", least=0)
    giou_cost: float = setting(2.0, "Weight of the generalised IoU in the matching cost.", least=0)
    no_object_weight: float = setting(0.1, "Weight of queries without an object in the softmax's class term.", least=0)
    auxiliary: bool = setting(True, "Losses after every decoder layer, not only the last.")
    normalizer: str = setting(
        "global",
        "What the class term is divided by: the weight of the whole batch, or of each device's part, as in the "
        "original.",
        choices=("global", "per_device"),
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW. Within these ranges a finite gradient gives a finite update, which ``training/step.py`` relies on."""

    lr: float = setting(1e-4, "Learning rate of everything but the backbone.", least=0, most=1)
    lr_backbone: float = setting(1e-5, "Learning rate of the backbone.", least=0, most=1)
    weight_decay: float = setting(1e-4, "Decoupled weight decay.", least=0, most=1)
    b2: float = setting(0.999, "Decay of Adam's second moment.", least=0.5, most=0.999999)
    clip_norm: float = setting(0.1, "Global gradient norm to clip to; 0: no clipping.", least=0, most=1e6)
    schedule: str = setting(
        "step", "step: a tenth at every multiple of drop_epoch. cosine: down to 1 % at the end. constant.",
        choices=("step", "cosine", "constant"),
    )  # fmt: skip
    drop_epoch: int = setting(200, "Epochs between two drops of the step schedule.", least=0)
    warmup_steps: int = setting(0, "Steps of linear warm-up.", least=0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batches, memory, and what is written when."""

    epochs: int = setting(300, "Epochs to train.", least=1, length=True)
    steps: int = setting(0, "Steps to train; if not 0, instead of epochs.", least=0, length=True)
    minutes: float = setting(
        0.0,
        "If not 0, instead of epochs and steps: as many steps as fit into so many minutes, with the evaluations "
        "and the schedule. A few steps and images are timed to find out.",
        least=0,
    )
    patience: int = setting(
        0, "Evaluations in a row without a higher AP after which the run ends; 0: never.", least=0, resumable=True
    )
    batch_size: int = setting(16, "Images of a step, over all devices and hosts.", least=1)
    accum_steps: int = setting(1, "Micro-batches of a step: less memory, the same gradient.", least=1)
    cache_features: str = setting(
        "",
        "layer1 to layer4: compute this frozen stage's features once for each view and keep them in memory. Needs one "
        "scale and no crop.",
        choices=("", *STAGES),
    )
    matcher: str = setting(
        "loop", "Solver of the matching; both are exact. pallas: a kernel for GPUs.", choices=("loop", "pallas"),
        resumable=True,
    )  # fmt: skip
    remat: bool = setting(False, "Recompute activations in the backward pass: less memory, more time.")
    fsdp: int = setting(
        1, "Devices that share one copy of the parameters and the optimizer's state.", least=1, resumable=True
    )
    average_decay: float = setting(
        0.0,
        "Decay of an exponential moving average of the parameters, which is then what is evaluated and used; each "
        "evaluation says what the parameters themselves score. 0: none.",
        least=0,
        most=0.999999,
    )
    log_every: int = setting(50, "Steps between two rows of the log; 0: every epoch.", least=0, resumable=True)
    checkpoint_every: int = setting(1000, "Steps between two checkpoints; 0: every epoch.", least=0, resumable=True)
    eval_every: int = setting(0, "Steps between two evaluations; 0: every epoch.", least=0, resumable=True)
    keep: int = setting(2, "Newest checkpoints to keep, besides the best.", least=1, resumable=True)
    stop_after_skipped: int = setting(
        20, "Non-finite steps in a row after which the run ends with advice.", least=1, resumable=True
    )
    tracker: str = setting(
        "", "Where the rows of the log go as well: wandb (Weights & Biases) or mlflow, if they are installed.",
        choices=("", "wandb", "mlflow"), resumable=True,
    )  # fmt: skip
    samples: int = setting(8, "Validation images drawn at each evaluation.", least=0, resumable=True)
    hang_minutes: float = setting(
        60.0,
        "Minutes after which a run that hangs ends with status 75: the limit of a step, a batch, a compilation, an "
        "evaluation or a save of which fewer than five were seen; later the limit is 20 times the median of its kind, "
        "and at least 5 minutes. 0: never.",
        least=0,
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. The defaults are the published recipe of DETR with a ResNet-50."""

    seed: int = setting(42, "Decides the initial weights, the batches and the dropout.", least=0, most=2**32 - 1)
    dtype: str = setting(
        "float32", "Type of activations and matrix products; parameters, losses and norms stay float32.",
        choices=("float32", "bfloat16", "float16"),
    )  # fmt: skip
    init_from: str | None = setting(
        None, "Weights to start from: a workdir, file or hub name. What fits by name and shape is loaded."
    )
    freeze: tuple[str, ...] = setting((), "Parts not to train, by the start of their names, such as ('backbone',).")
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


# ---- walking over the settings -----------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One setting of a ``Config``."""

    name: str  # such as "optim.lr"
    kind: Any  # its type
    rule: Rule
    value: Any


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a ``Config`` or of one of its groups, in the order of the fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield Setting(prefix + field.name, field.type, field.metadata["rule"], value)


def differences(old: Config, new: Config) -> list[str]:
    """How two starts of one run differ in what may not change, a phrase each."""
    lengths_may_change = new.optim.schedule != "cosine"
    return [
        f"{now.name} was {was.value!r} and is now {now.value!r}"
        for was, now in zip(settings(old), settings(new), strict=True)
        if was.value != now.value and not (now.rule.resumable or (now.rule.length and lengths_may_change))
    ]
