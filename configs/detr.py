"""DETR on COCO, the published recipe. ``--config=configs/detr.py:WORDS``, words separated by commas, in any order.

    python -m detr_jax.dataset prepare --name=coco --root=/path/to/coco --data_dir=data
    python -m detr_jax.train --config=configs/detr.py:r50 --workdir=runs/r50 \
        --config.data.name=coco --config.data.dir=data

The weights of the backbone come from the Hugging Face hub. One of the models:
    r50, r50_dc5, r101, r101_dc5   the paper's four. 500 epochs with a drop at 400 gave 42.0 AP, 300 with a drop at 200
                                   gave 40.6 (r50)
    r18_c4                         a small one, for trials on a CPU
    debug                          a tiny one for four steps: does everything run?
and, if wanted:
    fast        queries selected from the encoder's tokens, anchors that every layer refines, attention around them,
                memory at half the stride, focal loss, 50 epochs (docs/lab/learning_speed.md)
    buckets12   twelve canvases instead of eight: a twentieth less padding, four compilations more

Every setting stands with its default and meaning in docs/settings.md.
"""

from ml_collections import ConfigDict

from detr_jax.words import FAST, compose

PAPER = {
    "model.backbone": "resnet50",
    "model.backbone_weights": "timm/resnet50.tv_in1k",
    "model.dilation": False,
}
DEEP = PAPER | {"model.backbone": "resnet101", "model.backbone_weights": "timm/resnet101.tv_in1k"}
MODELS = {
    "r50": PAPER,
    "r50_dc5": PAPER | {"model.dilation": True},
    "r101": DEEP,
    "r101_dc5": DEEP | {"model.dilation": True},
    "r18_c4": {
        "model.backbone": "resnet18",
        "model.backbone_weights": "timm/resnet18.tv_in1k",
        "model.last_stage": "layer3",
        "model.encoder_layers": 3,
        "model.decoder_layers": 3,
        "model.hidden_dim": 128,
        "model.feed_forward_dim": 512,
        "data.scales": (240,),
        "data.max_size": 320,
        "data.crop": 0.0,
        "data.buckets": ((240, 320, 100), (320, 240, 100)),
        "optim.lr": 5e-4,
        "optim.lr_backbone": 5e-5,
        "train.batch_size": 8,
        "train.eval_every": 100,
    },
    "debug": {
        "model.backbone": "resnet10",
        "model.backbone_width": 16,
        "model.norm": "group",
        "model.hidden_dim": 32,
        "model.heads": 4,
        "model.encoder_layers": 1,
        "model.decoder_layers": 2,
        "model.feed_forward_dim": 64,
        "data.scales": (96,),
        "data.max_size": 128,
        "data.crop": 0.0,
        "data.buckets": ((96, 128, 100), (128, 96, 100)),
        "train.batch_size": 2,
        "train.steps": 4,
        "train.log_every": 1,
        "train.checkpoint_every": 2,
        "train.eval_every": 4,
    },
}
OTHERS = {
    "fast": FAST | {"train.epochs": 50, "optim.drop_epoch": 40},
    "buckets12": {  # fitted like the eight
        "data.buckets": (
            (512, 640, 64), (576, 768, 64), (640, 864, 64), (704, 960, 64), (768, 1024, 64), (800, 1120, 64),
            (800, 1344, 100), (640, 576, 64), (768, 640, 64), (864, 736, 64), (1024, 800, 64), (1344, 800, 100),
        ),
    },
}  # fmt: skip


def get_config(words: str = "r50") -> ConfigDict:
    """The configuration that the words describe."""
    return compose(words, MODELS, OTHERS, default="r50")
