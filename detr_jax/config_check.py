"""Refuses settings that cannot be, before any file is read, any weight is downloaded or any step is compiled."""

import re

from detr_jax.config import ARCHITECTURES, STAGES, Config, DataConfig, ModelConfig, settings
from detr_jax.errors import UserError

GROUPS = 8  # of the group norm, where there are as many channels
MAX_CELLS = 50  # rows and columns of learned positions, as in the original: 1600 pixels at stride 32
NEED_ANCHORS = {"queries": "selected", "focus": True}  # and denoising, whatever its number


def check(config: Config) -> None:
    """Raises UserError for the first setting that cannot be: one sentence with its name and what is allowed."""
    _check_rules(config)
    check_model(config.model)
    _check_data(config.data)
    _check_canvases(config.data, config.model)
    _check_optimizer(config)
    _check_freeze(config)
    _check_cache(config)


def _check_rules(config: Config | ModelConfig, prefix: str = "") -> None:
    for name, kind, rule, value in settings(config, prefix):
        if rule.choices and value not in rule.choices:
            raise UserError(f"{name}={value} does not exist; choose from {', '.join(filter(None, rule.choices))}")
        least, most = rule.least, rule.most
        if least is None:
            continue
        if not (least <= value and (most is None or value <= most)):  # also true for NaN
            word = "whole number" if kind is int else "number"
            allowed = f"a {word} from {least} to {most}" if most is not None else f"a {word} of {least} or more"
            raise UserError(f"{name}={value} is not possible; choose {allowed}")


def check_model(model: ModelConfig) -> None:
    """Raises UserError for a network that cannot be."""
    _check_rules(model, "model.")
    if model.hidden_dim % model.heads or model.hidden_dim % 4:
        raise UserError(
            f"model.hidden_dim={model.hidden_dim} must be a multiple of model.heads={model.heads} and of 4, for sine "
            "and cosine of two axes"
        )
    if model.norm == "group" and model.backbone_width % GROUPS:
        raise UserError(
            f"model.backbone_width={model.backbone_width} must be a multiple of {GROUPS} for model.norm=group"
        )
    if model.norm == "group" and model.backbone_weights:
        raise UserError(
            f"model.backbone_weights={model.backbone_weights} has batch norm, which model.norm=group does not have; "
            "set model.norm=frozen_batch, or model.backbone_weights= to nothing for random weights"
        )
    if not model.anchors:
        asked = {name: getattr(model, name) for name, value in NEED_ANCHORS.items() if getattr(model, name) == value}
        asked |= {"denoising": model.denoising} if model.denoising else {}
        for name, value in asked.items():
            raise UserError(f"model.{name}={value} works on anchor boxes; set model.anchors=True too, or leave it out")
    if model.finer_memory and stride(model) == 4:
        raise UserError("model.finer_memory=True needs a finer stage to read; set model.last_stage=layer3 or layer4")
    if model.masks:
        _check_masks(model)


def _check_masks(model: ModelConfig) -> None:
    if model.last_stage != "layer4":
        raise UserError(f"model.masks=True needs model.last_stage=layer4, not {model.last_stage}")
    width = model.hidden_dim
    sizes = [width + model.heads, width // 2, width // 4, width // 8, width // 16]
    if width % 16 or any(size % min(GROUPS, size) for size in sizes):
        raise UserError(
            f"model.masks=True needs model.hidden_dim=16, 32, 64 or a multiple of 128, and heads in eights, not "
            f"{width} and {model.heads}"
        )


def _check_data(data: DataConfig) -> None:
    lists = {"scales": data.scales} | ({"crop_scales": data.crop_scales} if data.crop else {})
    for name, lengths in lists.items():
        if not lengths or min(lengths) < 1:
            raise UserError(f"data.{name}={lengths} must hold at least one length, and all must be 1 pixel or more")
    if data.crop and data.crop_max < data.crop_min:
        raise UserError(f"data.crop_max={data.crop_max} is below data.crop_min={data.crop_min}")
    if len(data.image_limits) != 2 or min(data.image_limits) < 1:
        raise UserError(f"data.image_limits={data.image_limits} must be two numbers, pixels and bytes, both 1 or more")
    for name in ("train_split", "val_split"):
        if not re.fullmatch(r"\w+(\[\d*:\d*\])?", getattr(data, name)):
            raise UserError(f"data.{name}={getattr(data, name)} is no split; write it like train, val or train[:100]")


def _check_canvases(data: DataConfig, model: ModelConfig) -> None:
    """At least one canvas holds the largest image, lying or standing; learned positions reach over all of them."""
    if not data.buckets:  # they are chosen when the images are known
        return
    short, long = min(max(data.scales), data.max_size), data.max_size
    if not any(min(one[:2]) >= short and max(one[:2]) >= long for one in data.buckets):
        largest = max(data.buckets, key=lambda one: one.area)
        raise UserError(
            f"no canvas of data.buckets holds an image of {short}x{long}, which data.scales and data.max_size={long} "
            f"ask for; the largest is {largest.height}x{largest.width}: enlarge it, or set data.max_size="
            f"{max(largest[:2])} and scales up to {min(largest[:2])}"
        )
    cells = max(-(-side // stride(model)) for one in data.buckets for side in one[:2])
    if model.position_embedding == "learned" and cells > MAX_CELLS:
        raise UserError(
            f"model.position_embedding=learned reaches {MAX_CELLS} cells but data.buckets has canvases of {cells}; "
            "choose sine, or smaller canvases"
        )


def _check_optimizer(config: Config) -> None:
    optim, train = config.optim, config.train
    if optim.schedule == "step" and optim.drop_epoch < 1:
        raise UserError(
            "optim.drop_epoch=0 never ends the first epoch; choose 1 or more, or optim.schedule=constant for a rate "
            "that never drops"
        )
    if train.batch_size % train.accum_steps:
        raise UserError(
            f"train.batch_size={train.batch_size} cannot be cut into train.accum_steps={train.accum_steps} equal "
            f"micro-batches; make it a multiple of {train.accum_steps}"
        )


def _check_freeze(config: Config) -> None:
    known = parts(config.model)
    for name in config.freeze:
        if not name or not any(part.startswith(name) or name.startswith(f"{part}/") for part in known):
            raise UserError(f"freeze={config.freeze} names {name!r}, but the model has only {', '.join(known)}")
    if all(part.startswith(config.freeze) for part in known) and config.freeze:
        raise UserError(f"freeze={config.freeze} leaves nothing to train; leave some of it out")
    if config.model.masks and not is_frozen("mask_head", config):
        raise UserError(
            "masks cannot be trained yet; add freeze=\"('mask_head',)\" to train the boxes of this model alone"
        )


def _check_cache(config: Config) -> None:
    name, data = config.train.cache_features, config.data
    if not name:
        return
    if STAGES.index(name) > STAGES.index(config.model.last_stage):
        raise UserError(f"train.cache_features={name} is beyond model.last_stage={config.model.last_stage}")
    if config.model.finer_memory and STAGES.index(name) > STAGES.index(finer_stage(config.model)):
        raise UserError(
            f"train.cache_features={name} is beyond {finer_stage(config.model)}, which model.finer_memory=True reads; "
            f"choose train.cache_features={finer_stage(config.model)} or below"
        )
    below = [part for part in parts(config.model) if part.startswith("backbone/") and part <= f"backbone/{name}"]
    below += [part for part in parts(config.model) if part.startswith("backbone/norm")]
    learning = [part for part in below if not is_frozen(part, config)]
    if learning:
        raise UserError(
            f"train.cache_features={name} keeps what does not change, but {', '.join(learning)} would be trained; set "
            f'freeze="({", ".join(map(repr, learning))},)" too'
        )
    if data.crop or len(data.scales) > 1:
        raise UserError(
            f"train.cache_features={name} needs views that come again; set data.crop=0 and one scale, "
            f'data.scales="({data.scales[0]},)"'
        )
    if data.resize != "host":
        raise UserError(
            f"train.cache_features={name} resizes each image once, as evaluation does; leave "
            f"data.resize={data.resize} out"
        )


def stride(model: ModelConfig) -> int:
    """Pixels a cell of the last stage is wide."""
    number = int(model.last_stage.removeprefix("layer"))
    halvings = number - 1 - (model.dilation and number > 1)
    return 4 << halvings


def finer_stage(model: ModelConfig) -> str:
    """The last stage of half the encoder's stride, which ``finer_memory`` reads."""
    number = int(model.last_stage.removeprefix("layer"))
    return f"layer{number - 1 - (model.dilation and number > 1)}"


def parts(model: ModelConfig) -> list[str]:
    """The parts of a model that ``freeze`` may name."""
    last = int(model.last_stage.removeprefix("layer"))
    present = {
        "backbone/conv0": ARCHITECTURES[model.backbone].small_stem,
        "backbone/conv1": True,
        "backbone/norm1": True,
        **{f"backbone/layer{number}": number <= last for number in range(1, 5)},
        "input_projection": True,
        "positions": model.position_embedding == "learned",
        "transformer/encoder": model.encoder_layers > 0,
        "transformer/encoder_norm": model.pre_norm,
        "transformer/decoder": True,
        "transformer/decoder_norm": True,
        "finer": model.finer_memory,
        "query_positions": not model.anchors,
        "anchor_decoder": model.anchors,
        "class_head": True,
        "box_head": True,
        "mask_head": model.masks,
    }
    return [part for part, there in present.items() if there]


def is_frozen(part: str, config: Config) -> bool:
    """Whether nothing of a part is trained: by ``freeze``, or because it carries pretrained batch norm."""
    always = ("backbone/conv0", "backbone/conv1", "backbone/norm1", "backbone/layer1")
    return part.startswith(config.freeze) or (config.model.norm == "frozen_batch" and part in always)
