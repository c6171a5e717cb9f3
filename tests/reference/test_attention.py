"""Where the last layers look, against the attention that the peer gives out."""

import jax
import numpy as np
import peer
import pytest
import torch

from detr_jax.structures import Pixels

ATTENTION = 1e-5
VARIANTS = {"narrow": {}, "narrow_learned": {"position_embedding": "learned"}, "narrow_dc5": {"dilation": True}}


@torch.no_grad()
def soften(model: torch.nn.Module) -> None:
    """Spreads the attention into the image over many cells, as in trained models: rounding counts less than if all of
    it depends on the logits of two."""
    for name, parameter in model.named_parameters():
        if "encoder_attn.q_proj" in name:
            parameter *= 0.3


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_of_the_last_layers(variant, differences):
    """For all queries, and for the cells under the centres of their boxes."""
    settings = peer.NARROW | VARIANTS[variant]
    built, size = peer.build(seed=20, **settings), (187, 211)
    soften(built.model)
    arrays = peer.to_here(built.model, built.model.state_dict())
    images, stride = peer.noise(3, 1, *size), 16 if variant == "narrow_dc5" else 32
    every = np.arange(settings["num_queries"])[None]

    @jax.jit
    def attention(arrays, inputs):
        return built.network.apply(arrays, inputs, lambda _: every, method="with_attention")

    predictions, decoder, encoder = attention(arrays, Pixels(images, np.array([size], np.int32)))
    built.model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = torch.ones(images.shape[:3], dtype=torch.long)
        theirs = built.model(pixel_values=peer.pixels(images), pixel_mask=whole, output_attentions=True)
    h, w = (-(-side // stride) for side in size)
    wanted = theirs.cross_attentions[-1].numpy()
    assert wanted.std() > 0.003
    difference = peer.largest(decoder.values.reshape(wanted.shape), wanted)
    differences("decoder", difference)
    assert difference <= ATTENTION
    centers = theirs.pred_boxes[0, :, :2].numpy() * (size[1] / stride, size[0] / stride)
    columns, rows = np.floor(centers.T).astype(int)
    wanted = theirs.encoder_attentions[-1].numpy()[:, :, rows * w + columns]
    assert wanted.std() > 0.003 and encoder.values.shape[3:] == (h, w)
    difference = peer.largest(encoder.values.reshape(wanted.shape), wanted)
    differences("encoder", difference)
    assert difference <= ATTENTION
    assert peer.largest(predictions.boxes[-1], theirs.pred_boxes) < 1e-5
