"""Your own photos, from a pretrained backbone, in minutes: ``--config=configs/finetune.py:WORDS``.

    python -m detr_jax.train --config=configs/finetune.py --data=FOLDER --workdir=runs/cells

Scale and canvases are chosen from the photos (data.buckets=auto); weights of the backbone come from the Hugging Face
hub.
One of the models, each the fast detector of configs/detr.py on a backbone up to layer3:
    r18_c4    a few hundred photos on a CPU, and the default without a GPU or TPU. Only layer3 of the ResNet-18 is
              trained, the features below it are computed once; 13 minutes on two cores
    r50_c4    for a GPU or TPU, and the default with one; with augmentation; not measured yet
and, if wanted:
    overfit   learns the training images by heart, to see that a model can learn them at all
"""

from ml_collections import ConfigDict

from detr_jax.devices import expect_accelerator
from detr_jax.words import FAST, compose

MODELS = {
    "r18_c4": {
        "freeze": ("backbone/layer2",),  # the stem and layer1 always are
        "model.backbone": "resnet18",
        "model.backbone_weights": "timm/resnet18.tv_in1k",
        "model.last_stage": "layer3",
        "model.encoder_layers": 2,
        "model.decoder_layers": 3,
        "model.hidden_dim": 128,
        "model.feed_forward_dim": 512,
        "model.dropout": 0.0,
        "model.num_queries": 80,
        "data.scales": (288,),
        "data.max_size": 384,
        "data.crop": 0.0,
        "data.buckets": (),
        "data.threads": 1,
        "optim.lr": 4e-4,
        "optim.lr_backbone": 8e-5,
        "optim.clip_norm": 0.5,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 60,
        "train.batch_size": 4,
        "train.steps": 1200,
        "train.patience": 3,
        "train.cache_features": "layer2",
        "train.checkpoint_every": 400,
        "train.eval_every": 400,
    },
    "r50_c4": {
        "model.backbone_weights": "timm/resnet50.tv_in1k",
        "model.last_stage": "layer3",
        "model.encoder_layers": 3,
        "model.decoder_layers": 4,
        "model.dropout": 0.0,
        "model.feed_forward_dim": 1024,
        "data.scales": (384, 416, 448, 480, 512),
        "data.max_size": 704,
        "data.crop_scales": (384, 448, 512),
        "data.crop_min": 288,
        "data.crop_max": 512,
        "data.buckets": (),
        "optim.lr": 2e-4,
        "optim.lr_backbone": 4e-5,
        "optim.clip_norm": 0.5,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 100,
        "train.batch_size": 8,
        "train.steps": 3000,
        "train.patience": 3,
        "train.checkpoint_every": 500,
        "train.eval_every": 500,
    },
}
OTHERS = {
    "overfit": {
        "data.val_split": "train",
        "data.flip": 0.0,
        "data.crop": 0.0,
        "optim.lr": 5e-4,
        "optim.lr_backbone": 2e-4,
        "model.num_queries": 100,
        "train.steps": 1800,
        "train.eval_every": 600,
        "train.checkpoint_every": 600,
    },
}


def get_config(words: str = "") -> ConfigDict:
    """The configuration that the words describe."""
    default = "r50_c4" if expect_accelerator() else "r18_c4"
    lengths = {"train.epochs": 50, "optim.drop_epoch": 40}
    return compose(words, MODELS, OTHERS, default=default, base=FAST | lengths)
