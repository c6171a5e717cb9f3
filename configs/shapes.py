"""The embedded demo: coloured shapes over textured backgrounds, made on the spot; no download.

    python -m detr_jax.train --config=configs/shapes.py --workdir=runs/shapes

One of the models:
    fast      queries selected from the encoder's tokens, anchors, focal loss: a good detector in a few minutes on two
              CPU cores (the default)
    plain     the paper's DETR, 600 steps: the losses fall, but it needs hours to generalise
and, if wanted:
    smoke     300 steps of the fast detector: one minute
    overfit   8 images by heart, AP 0.9 and more on them within 1,500 steps; of the plain DETR unless fast is said
"""

from ml_collections import ConfigDict

from detr_jax.words import FAST, compose

SMALL = {
    "model.backbone": "resnet10",
    "model.backbone_width": 32,
    "model.last_stage": "layer3",  # stride 16: 36 tokens for 96 pixels
    "model.norm": "group",
    "model.position_temperature": 20.0,  # 10000 would leave most features constant on so few cells
    "model.hidden_dim": 96,
    "model.heads": 4,
    "model.encoder_layers": 2,
    "model.decoder_layers": 3,
    "model.feed_forward_dim": 256,
    "model.dropout": 0.0,
    "model.num_queries": 15,
    "data.name": "shapes",
    "data.scales": (96,),
    "data.max_size": 96,
    "data.crop": 0.0,
    "data.buckets": ((96, 96, 8),),
    "data.threads": 1,
    "optim.lr": 5e-4,
    "optim.lr_backbone": 5e-4,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 50,
    "train.batch_size": 16,
    "train.steps": 600,
    "train.log_every": 20,
    "train.checkpoint_every": 200,
    "train.eval_every": 200,
}

FAST_SMALL = {
    **FAST,
    "model.backbone": "resnet10_small",
    "model.backbone_width": 24,
    "model.num_queries": 15,
    "optim.lr": 1e-3,
    "optim.lr_backbone": 1e-3,
    "optim.clip_norm": 1.0,
    "train.steps": 1000,
    "train.eval_every": 500,
    "train.checkpoint_every": 500,
}

MODELS = {"fast": FAST_SMALL, "plain": {}}
OTHERS = {
    "smoke": {"train.steps": 300, "train.eval_every": 300, "train.checkpoint_every": 300},
    "overfit": {
        "data.train_split": "train[:8]",
        "data.val_split": "train[:8]",
        "data.flip": 0.0,
        "train.batch_size": 8,
        "train.steps": 1500,
        "train.eval_every": 500,
        "train.checkpoint_every": 500,
    },
}


def get_config(words: str = "fast") -> ConfigDict:
    """The configuration that the words describe."""
    default = "plain" if "overfit" in words else "fast"
    return compose(words, MODELS, OTHERS, default=default, base=SMALL)
