"""Weights of DETR from one framework to another.

    python -m detr_jax.convert --source=facebook/detr-resnet-50 --output=weights/detr_r50

Sources: a ``.pth`` of the original or of Detectron2, a Hugging Face ``model.safetensors`` or its folder, a name on the
hub, a workdir or checkpoint of this project. Targets: ``jax`` (a checkpoint for evaluate, predict and init_from),
``official`` (a ``.pth`` that the original loads; needs PyTorch), ``huggingface`` (a folder for ``from_pretrained``).
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from absl import flags
from safetensors.numpy import save_file

from detr_jax import cli
from detr_jax.config import ARCHITECTURES, ModelConfig
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.files import replacing
from detr_jax.inference.detector import rebuild_network
from detr_jax.structures import Categories
from detr_jax.weights import containers, foreign, torch_names
from detr_jax.weights.checkpoints import Checkpoints, Stored
from detr_jax.weights.sources import HUGGINGFACE_BACKBONE, Report, Weights, load_weights

Arrays = dict[str, np.ndarray]

TARGETS = ("jax", "official", "huggingface")
NO_DILATION = (
    "transformers' own ResNet has no dilation: after loading, set on its last stage stride 1 for the first block's "
    "shortcut and 3x3 convolution, and dilation and padding 2 for the 3x3 convolutions of the others"
)
ONLY_HERE = ("queries", "anchors", "focus", "finer_memory", "denoising", "class_scores", "position_temperature")


def write_jax(output: Path, arrays: Arrays, model: ModelConfig, categories: Categories, source: Weights) -> None:
    """A checkpoint of step 0. It keeps the config of the run that ``source`` comes from, and Hugging Face's naming."""
    config = source.config and dataclasses.replace(source.config, model=model)
    info = {"config": to_dict(config)} if config else {"model": to_dict(model)}
    info |= {"categories": categories.to_rows()}
    info |= {HUGGINGFACE_BACKBONE: source.huggingface_backbone} if source.huggingface_backbone else {}
    with Checkpoints(output / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(0, Stored(arrays, {}, {}, info))


def write_official(output: Path, arrays: Arrays, masks: bool) -> None:
    """A file for ``model.load_state_dict(torch.load(file)["model"])`` of the original."""
    torch = containers.pytorch(output)
    table = torch_names.panoptic(torch_names.ORIGINAL) if masks else torch_names.ORIGINAL
    tensors = torch_names.to_there(arrays, table)
    with replacing(output) as path:
        content = {key: torch.from_numpy(np.array(tensor, order="C")) for key, tensor in tensors.items()}
        torch.save({"model": content}, path)


def huggingface_config(model: ModelConfig, categories: Categories, backbone: str) -> dict:
    """``config.json`` of transformers' DETR, with its own ResNet (``backbone`` is 'native') or with timm's."""
    depths, bottleneck, _ = ARCHITECTURES[model.backbone]
    widths = [model.backbone_width * 2**stage * (4 if bottleneck else 1) for stage in range(4)]
    stages = [f"stage{stage}" for stage in range(1 if model.masks else 4, 5)]
    native = {
        "model_type": "resnet", "embedding_size": model.backbone_width, "hidden_sizes": widths,
        "depths": list(depths), "layer_type": "bottleneck" if bottleneck else "basic", "out_features": stages,
        "downsample_in_bottleneck": model.stride_in_1x1,
    }  # fmt: skip
    timm = {"use_timm_backbone": True, "backbone": model.backbone, "backbone_config": None}
    own = {"use_timm_backbone": False, "backbone": None, "backbone_config": native}
    names = {str(row): name for row, name in enumerate(categories.names)}
    return (timm if backbone == "timm" else own) | {
        "model_type": "detr", "architectures": [f"DetrFor{'Segmentation' if model.masks else 'ObjectDetection'}"],
        "use_pretrained_backbone": False, "dilation": model.dilation, "num_queries": model.num_queries,
        "d_model": model.hidden_dim, "encoder_layers": model.encoder_layers,
        "decoder_layers": model.decoder_layers, "encoder_ffn_dim": model.feed_forward_dim,
        "decoder_ffn_dim": model.feed_forward_dim, "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads, "dropout": model.dropout,
        "position_embedding_type": model.position_embedding, "id2label": names,
        "label2id": {name: int(row) for row, name in names.items()},
    }  # fmt: skip


def write_huggingface(output: Path, arrays: Arrays, model: ModelConfig, categories: Categories, backbone: str) -> None:
    """A folder for ``from_pretrained`` of transformers' ``DetrForObjectDetection`` or ``DetrForSegmentation``."""
    table = foreign.HUGGINGFACE[backbone]
    tensors = torch_names.to_there(arrays, torch_names.panoptic(table) if model.masks else table)
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / foreign.HUGGINGFACE_WEIGHTS) as path:
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, path, {"format": "pt"})
    with replacing(output / foreign.HUGGINGFACE_CONFIG) as path:
        path.write_text(json.dumps(huggingface_config(model, categories, backbone), indent=1), encoding="utf-8")


def refuse_unknown_there(model: ModelConfig, to: str, backbone: str) -> None:
    """Raises UserError for a model that the other framework does not have."""
    defaults = ModelConfig()
    only_here = {
        "backbone": ARCHITECTURES[model.backbone].small_stem,
        "stride_in_1x1": model.stride_in_1x1 and (to, backbone) != ("huggingface", "native"),
        "norm": model.norm != "frozen_batch",
        "last_stage": model.last_stage != "layer4",
        "pre_norm": model.pre_norm and to == "huggingface",
        **{name: getattr(model, name) != getattr(defaults, name) for name in ONLY_HERE},
    }
    for name, alone in only_here.items():
        if alone:
            value = getattr(model, name)
            raise UserError(f"--to={to} knows no model with {name}={value}; it stays a checkpoint of detr_jax")


def convert(source: str | Path, output: str | Path, to: str = "jax", dilation: bool | None = None) -> None:
    """Reads, converts, writes, and prints what became of each tensor.

    Args:
      source: a file, a folder, a workdir or a hub name.
      output: the file or folder to write, which must not exist.
      to: one of ``TARGETS``.
      dilation: whether the model is a DC5 one; None is what the source tells.

    Raises UserError when there is no whole detector to convert, or when the target does not have such a model; nothing
    is written then.
    """
    output = Path(output).expanduser()
    if to not in TARGETS:
        raise UserError(f"--to={to} does not exist; choose from {', '.join(TARGETS)}")
    if output.exists():
        raise UserError(f"--output={output} exists already; choose another name")
    weights = load_weights(source, "--source")
    changes = {} if dilation is None else {"dilation": dilation}
    network, model, categories = rebuild_network(weights, **changes)
    arrays = {name: weights.arrays[name] for name in network.shapes}
    extra = sorted(weights.arrays.keys() - network.shapes.keys())
    report = Report(sorted(arrays), [], [], [*weights.unused, *extra])
    # timm's ResNet can be dilated, transformers' own cannot; but a source comes back with the names that it had.
    backbone = weights.huggingface_backbone or ("timm" if model.dilation else "native")
    try:
        if to == "jax":
            write_jax(output, arrays, model, categories, weights)
        else:
            refuse_unknown_there(model, to, backbone)
            if to == "official":
                write_official(output, arrays, model.masks)
            else:
                write_huggingface(output, arrays, model, categories, backbone)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    kind = f"{model.backbone}{' DC5' if model.dilation else ''}{' with masks' if model.masks else ''}"
    print(
        f"{weights.path} is {weights.title}: {kind}, {model.num_queries} queries, {len(categories.ids)} classes\n"
        f"{report}\nwritten to {output} ({to})"
    )
    if to == "huggingface" and model.dilation and backbone == "native":
        print(NO_DILATION)


def main(argv: list[str]) -> None:
    """Converts what the flags name."""
    cli.refuse_words(argv[1:])
    args = flags.FLAGS
    convert(args.source, args.output, args.to, args.dilation)


def define_flags() -> None:
    """The flags of this program."""
    flags.DEFINE_string("source", None, "File, folder, workdir or hub name to read.", required=True)
    flags.DEFINE_string("output", None, "File or folder to write.", required=True)
    flags.DEFINE_enum("to", "jax", TARGETS, "What to write.")
    flags.DEFINE_bool("dilation", None, "Whether the model is a DC5 one, where the source does not tell.")


if __name__ == "__main__":
    cli.run(main, define_flags)
