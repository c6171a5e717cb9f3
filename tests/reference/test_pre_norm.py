"""The pre-norm transformer, which transformers lacks, against the original's layers written out on torch.nn.

The keys are the original's, so its packed attention weights and its layout's names are checked on the way.
"""

import jax
import numpy as np
import peer
import pytest
import torch
from flax import nnx
from torch import nn

from detr_jax.config import ModelConfig
from detr_jax.models.heads import Heads
from detr_jax.models.network import make_network
from detr_jax.models.position_encoding import make_grid
from detr_jax.models.queries import FixedQueries
from detr_jax.models.transformer import Memory, Transformer
from detr_jax.weights import torch_names

WIDTH, HEADS, HIDDEN, LAYERS = 32, 4, 48, 3


class Layer(nn.Module):
    """models/transformer.py of the original: an encoder layer, or with ``decodes`` a decoder layer."""

    def __init__(self, decodes: bool):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS)
        if decodes:
            self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.linear1, self.linear2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        for number in range(1, 4 if decodes else 3):
            setattr(self, f"norm{number}", nn.LayerNorm(WIDTH))

    def encode_pre(self, src, padding, pos):
        src2 = self.norm1(src)
        q = k = src2 + pos
        src = src + self.self_attn(q, k, src2, key_padding_mask=padding)[0]
        return src + self.linear2(torch.relu(self.linear1(self.norm2(src))))

    def encode_post(self, src, padding, pos):
        q = k = src + pos
        src = self.norm1(src + self.self_attn(q, k, src, key_padding_mask=padding)[0])
        return self.norm2(src + self.linear2(torch.relu(self.linear1(src))))

    def decode_pre(self, tgt, memory, padding, pos, query_pos):
        tgt2 = self.norm1(tgt)
        q = k = tgt2 + query_pos
        tgt = tgt + self.self_attn(q, k, tgt2)[0]
        tgt2 = self.norm2(tgt)
        tgt = tgt + self.multihead_attn(tgt2 + query_pos, memory + pos, memory, key_padding_mask=padding)[0]
        return tgt + self.linear2(torch.relu(self.linear1(self.norm3(tgt))))

    def decode_post(self, tgt, memory, padding, pos, query_pos):
        q = k = tgt + query_pos
        tgt = self.norm1(tgt + self.self_attn(q, k, tgt)[0])
        attended = self.multihead_attn(tgt + query_pos, memory + pos, memory, key_padding_mask=padding)[0]
        tgt = self.norm2(tgt + attended)
        return self.norm3(tgt + self.linear2(torch.relu(self.linear1(tgt))))


class Original(nn.Module):
    """The original's transformer on batch-second sequences; ``padding`` is True on padded cells."""

    def __init__(self, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.layers = nn.ModuleList([Layer(decodes=False) for _ in range(LAYERS)])
        self.decoder.layers = nn.ModuleList([Layer(decodes=True) for _ in range(LAYERS)])
        self.decoder.norm = nn.LayerNorm(WIDTH)
        if pre_norm:
            self.encoder.norm = nn.LayerNorm(WIDTH)

    def forward(self, src, padding, pos, query_pos):
        memory = src
        for layer in self.encoder.layers:
            memory = (layer.encode_pre if self.pre_norm else layer.encode_post)(memory, padding, pos)
        if self.pre_norm:
            memory = self.encoder.norm(memory)
        tgt, found = torch.zeros_like(query_pos), []
        for layer in self.decoder.layers:
            decode = layer.decode_pre if self.pre_norm else layer.decode_post
            tgt = decode(tgt, memory, padding, pos, query_pos)
            found.append(self.decoder.norm(tgt))
        return memory, torch.stack(found)


class Both(nnx.Module):
    """Our transformer from tokens to (memory, hidden states)."""

    def __init__(self, pre_norm: bool, rngs: nnx.Rngs):
        config = ModelConfig(
            hidden_dim=WIDTH, heads=HEADS, feed_forward_dim=HIDDEN, encoder_layers=LAYERS, decoder_layers=LAYERS,
            pre_norm=pre_norm
        )  # fmt: skip
        self.transformer = Transformer(config, dtype=jax.numpy.float32, rngs=rngs)

    def __call__(self, tokens, valid, positions, queries):
        memory, _ = self.transformer.encode(tokens, positions, valid)
        read = Memory(memory, positions, valid, make_grid(jax.numpy.full((2, 2), 30), 1, 30, 1))
        start = FixedQueries(jax.numpy.zeros_like(queries), queries, Heads(None, None))
        return memory, self.transformer.decode(start, read)[1]


@pytest.mark.parametrize("pre_norm", [True, False])
def test_transformer(pre_norm, differences):
    torch.manual_seed(0)
    original = Original(pre_norm).eval()
    with torch.no_grad():
        for parameter in original.parameters():  # norms and biases too
            parameter.add_(0.2 * torch.randn_like(parameter))
    tensors = {f"transformer.{name}": tensor.numpy() for name, tensor in original.state_dict().items()}
    arrays, unknown = torch_names.to_here(tensors, torch_names.ORIGINAL)
    network = make_network(lambda rngs: Both(pre_norm, rngs))
    assert not unknown and arrays.keys() == network.shapes.keys()

    rng = np.random.default_rng(0)
    tokens, positions = rng.standard_normal((2, 2, 30, WIDTH)).astype(np.float32)
    queries = rng.standard_normal((2, 9, WIDTH)).astype(np.float32)
    valid = np.arange(30)[None] < np.array([[30], [17]])
    with torch.no_grad():
        second = [torch.from_numpy(array.swapaxes(0, 1).copy()) for array in (tokens, positions, queries)]
        memory, hidden = original(second[0], torch.from_numpy(~valid), second[1], second[2])
    our_memory, our_hidden = jax.jit(network.apply)(arrays, tokens, valid, positions, queries)
    difference = peer.largest(np.asarray(our_memory)[valid], memory.numpy().swapaxes(0, 1)[valid])
    differences("memory", difference)
    assert difference < 1e-5
    differences("hidden", peer.largest(our_hidden, hidden.numpy().swapaxes(1, 2)))
    assert peer.largest(our_hidden, hidden.numpy().swapaxes(1, 2)) < 1e-5
