"""Your own photos, from pretrained weights, in minutes: `--config=configs/finetune.py:WORDS`.

    python -m detr_jax.train --config=configs/finetune.py:r18_c4 --workdir=runs/cells \
        --config.data.name=cells --config.data.dir=data --config.model.backbone_weights=resnet18.npz

Words: r18_c4 (a few hundred photos on a CPU: ResNet-18 up to layer3, of which layer3 is trained and the features below
are computed once; 15 minutes on two cores), r50_c4 (a GPU: ResNet-50 up to layer3, augmentation on). Both are the
fast detector: queries selected from the encoder's tokens, anchors, focal loss. docs/finetune.md tells more.
"""

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it can be named from any folder
from configs import detr  # noqa: E402

WORDS = {
    "r18_c4": {
        "freeze": ("backbone/layer2",),  # the stem and layer1 always are
        "model.backbone": "resnet18",
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
        "data.buckets": ((288, 384, 64), (384, 288, 64)),
        "data.threads": 1,
        "optim.lr": 4e-4,
        "optim.lr_backbone": 8e-5,
        "optim.clip_norm": 0.5,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 60,
        "train.batch_size": 4,
        "train.steps": 1600,
        "train.cache_features": "layer2",
        "train.checkpoint_every": 400,
        "train.eval_every": 400,
    },
}


def get_config(words: str = "r18_c4") -> ConfigDict:
    """The configuration that the words describe."""
    config = detr.apply_words(detr.base(), "fast", detr.WORDS)
    return detr.apply_words(config, words, WORDS)
