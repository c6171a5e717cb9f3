"""Clipping and AdamW against torch's, given the same gradients."""

import jax
import numpy as np
import optax
import peer
import torch

from detr_jax.config import OptimConfig
from detr_jax.training import optimizer

OPTIM = OptimConfig(lr=1e-4, lr_backbone=1e-5, weight_decay=1e-4, schedule="constant")
SHAPES = {"backbone/layer2/0/conv1/kernel": (1, 1, 16, 8), "class_head/bias": (92,), "query_positions": (100, 16)}


def test_updates_equal_torchs(differences):
    """torch steps in float64, so that what is compared is the update and not the rounding of the parameter.

    Gradients of every size (1e-9 to 1), some of them zero; the norm is above the limit at first and below it later.
    """
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    copies = {name: torch.nn.Parameter(torch.tensor(array, dtype=torch.float64)) for name, array in params.items()}
    groups = [
        {"params": [copies[name] for name in copies if not name.startswith("backbone/")]},
        {"params": [copies[name] for name in copies if name.startswith("backbone/")], "lr": OPTIM.lr_backbone},
    ]
    their_adamw = torch.optim.AdamW(groups, lr=OPTIM.lr, weight_decay=OPTIM.weight_decay)
    tx, numbers = optimizer.make_optimizer(OPTIM.b2, OPTIM.schedule), optimizer.make_hyperparameters(OPTIM)
    params = jax.device_put(params)
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradients):
        clipped, norm = optimizer.clip_by_norm(gradients, 0.1)
        updates, state = tx.update(clipped, state, params, numbers=numbers)
        return optax.apply_updates(params, updates), state, updates, norm

    for number in range(10):
        size = 10.0 ** rng.uniform(-9, 0 if number < 5 else -4)
        gradients = {
            name: (size * rng.standard_normal(shape) * (rng.random(shape) < 0.9)).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        before = {name: copy.detach().numpy().copy() for name, copy in copies.items()}
        for name, copy in copies.items():
            copy.grad = torch.tensor(gradients[name], dtype=torch.float64)
        their_norm = float(torch.nn.utils.clip_grad_norm_(copies.values(), 0.1))
        their_adamw.step()
        params, state, updates, norm = step(params, state, gradients)
        np.testing.assert_allclose(float(norm), their_norm, rtol=1e-6)
        for name, copy in copies.items():
            wanted = copy.detach().numpy() - before[name]
            differences(f"update {number + 1}", peer.relative(updates[name], wanted))
            assert peer.relative(updates[name], wanted) <= 1e-6, (number, name, peer.relative(updates[name], wanted))
