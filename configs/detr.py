"""DETR on COCO, the published recipe. `--config=configs/detr.py:WORDS`, words separated by commas.

    python -m detr_jax.dataset prepare --name=coco --root=/path/to/coco --data_dir=data
    python -m detr_jax.train --config=configs/detr.py:r50 --workdir=runs/r50 \
        --config.data.name=coco --config.data.dir=data --config.model.backbone_weights=resnet50.npz

Words: r50, r50_dc5, r101, r101_dc5 (the paper's four models), r18_c4 (a small backbone up to layer3), fast (after one
of these: queries selected from the encoder's tokens, anchors that every layer refines, attention around them, memory
at half the stride, focal loss, 50 epochs; docs/learning_speed.md), buckets12 (twelve canvases instead of eight: a
twentieth less padding, four compilations more), debug (a tiny model for four steps: does everything run?). The paper's
models take 300 to 500 epochs: 500 with a drop at 400 gave its 42.0 AP, 300 with a drop at 200 its 40.6. Every key there
is stands here with its default; variants change values only.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from detr_jax.data.buckets import COCO, COCO_12

WORDS = {
    "r50": {},
    "r50_dc5": {"model.dilation": True},
    "r101": {"model.backbone": "resnet101"},
    "r101_dc5": {"model.backbone": "resnet101", "model.dilation": True},
    "r18_c4": {
        "model.backbone": "resnet18",
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
    "buckets12": {"data.buckets": tuple(tuple(bucket) for bucket in COCO_12)},
    "fast": {
        "model.queries": "selected",
        "model.anchors": True,
        "model.focus": True,
        "model.finer_memory": True,
        "model.denoising": 0,
        "model.class_scores": "sigmoid",
        "model.position_temperature": 20.0,  # of DAB-DETR
        "model.num_queries": 300,
        "model.dropout": 0.0,
        "loss.class_weight": 2.0,
        "loss.class_cost": 2.0,
        "train.epochs": 50,
        "optim.drop_epoch": 40,
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


def base() -> ConfigDict:
    """Every key, with the value of the published R50 recipe."""
    config = ConfigDict()
    config.seed = 42
    config.dtype = "float32"  # of activations and matrix products; 'bfloat16' on GPU and TPU
    config.init_from = placeholder(
        str
    )  # workdir, file or hub name to start from; what fits by name and shape is loaded
    config.freeze = ()  # parts that are not trained, by the beginning of their names: ('backbone',)

    config.model = ConfigDict()
    config.model.backbone = "resnet50"  # resnet10, resnet10_small, resnet18, resnet34, resnet50, resnet101
    config.model.backbone_weights = placeholder(
        str
    )  # .npz, .safetensors or .pth with torchvision's names, or a hub name
    config.model.backbone_width = 64  # channels of the stem
    config.model.last_stage = "layer4"  # 'layer3' is C4: stride 16
    config.model.dilation = False  # DC5: the last stage keeps its resolution
    config.model.stride_in_1x1 = False  # True for Caffe and Keras ResNet weights
    config.model.norm = "frozen_batch"  # 'group' to train a backbone from scratch
    config.model.position_embedding = "sine"  # or 'learned'
    config.model.position_temperature = 10000.0
    config.model.hidden_dim = 256
    config.model.heads = 8
    config.model.encoder_layers = 6
    config.model.decoder_layers = 6
    config.model.feed_forward_dim = 2048
    config.model.dropout = 0.1
    config.model.num_queries = 100  # the most objects that can be found in an image
    config.model.pre_norm = False
    config.model.queries = "learned"  # or 'selected': the surest tokens of the encoder (with anchors)
    config.model.anchors = False  # queries are boxes that every decoder layer refines
    config.model.focus = False  # cross-attention looks around the anchor
    config.model.finer_memory = False  # the decoder reads tokens of half the encoder's stride
    config.model.layer_heads = False  # heads of its own for every decoder layer
    config.model.denoising = 0  # groups of noised objects that are decoded beside the queries in training
    config.model.class_scores = "softmax"  # with a no-object class, or 'sigmoid': focal loss, no such class
    config.model.masks = False  # the mask head of the panoptic models; freeze it, its training is not there yet

    config.data = ConfigDict()
    config.data.name = "coco"  # as given to `dataset prepare`, or coco/2017 as prepared by tfds
    config.data.dir = "data"
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.scales = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # of the short side; one is drawn
    config.data.max_size = 1333  # of the long side
    config.data.flip = 0.5  # probability of mirroring left and right
    config.data.flip_vertical = 0.0  # of turning upside down, for images without an up: cells, aerial views
    config.data.crop = 0.5  # probability
    config.data.crop_scales = (400, 500, 600)
    config.data.crop_min = 384
    config.data.crop_max = 600
    config.data.buckets = tuple(tuple(b) for b in COCO)  # canvases (height, width, target slots); compiled once each
    config.data.resize = "host"  # as the original; 'fast': OpenCV where nothing shrinks; 'device': in the training step
    config.data.threads = 8  # that read and decode

    config.loss = ConfigDict()
    config.loss.class_weight = 1.0  # of the loss terms
    config.loss.bbox_weight = 5.0
    config.loss.giou_weight = 2.0
    config.loss.class_cost = 1.0  # of the matching
    config.loss.bbox_cost = 5.0
    config.loss.giou_cost = 2.0
    config.loss.no_object_weight = 0.1
    config.loss.auxiliary = True  # losses after every decoder layer
    config.loss.normalizer = "global"  # 'per_device' divides the class term per device, as the original does

    config.optim = ConfigDict()
    config.optim.lr = 1e-4
    config.optim.lr_backbone = 1e-5
    config.optim.weight_decay = 1e-4
    config.optim.b2 = 0.999
    config.optim.clip_norm = 0.1  # 0: no clipping
    config.optim.schedule = "step"  # or 'cosine', 'constant'
    config.optim.drop_epoch = 200  # 'step': a tenth of the rate from here on
    config.optim.warmup_steps = 0

    config.train = ConfigDict()
    config.train.epochs = 300
    config.train.steps = 0  # if set, instead of epochs
    config.train.batch_size = 16  # over all devices and hosts
    config.train.accum_steps = 1  # micro-batches a step, for less memory; the result is the same
    config.train.cache_features = ""  # 'layer2': keep its features of every view; needs it frozen, one scale, no crop
    config.train.matcher = "loop"  # or 'pallas': a kernel for GPUs; both are exact
    config.train.remat = False  # recompute activations in the backward pass, for less memory
    config.train.fsdp = 1  # devices that share one copy of the parameters
    config.train.average_decay = 0.0  # of an exponential moving average of the parameters; 0 is off
    config.train.log_every = 50  # steps
    config.train.checkpoint_every = 1000  # steps; 0: every epoch
    config.train.eval_every = 0  # steps; 0: every epoch
    config.train.keep = 2  # newest checkpoints, besides the best
    config.train.stop_after_skipped = 20  # steps in a row with a number that is not finite
    config.train.samples = 8  # validation images drawn at each evaluation
    config.train.hang_minutes = 60.0  # without any progress before the run ends itself with all stacks; 0: never
    return config


def apply_words(config: ConfigDict, words: str, table: dict[str, dict]) -> ConfigDict:
    """Changes the values that each word of a comma-separated list stands for, in order."""
    for word in filter(None, words.split(",")):
        if word not in table:
            raise ValueError(f"unknown word {word!r} in --config; choose from {', '.join(sorted(table))}")
        config.update_from_flattened_dict(table[word])
    return config


def get_config(words: str = "r50") -> ConfigDict:
    """The configuration that the words describe."""
    return apply_words(base(), words, WORDS)
