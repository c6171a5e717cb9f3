"""Loops too simple to be wrong: a convolution and a max pool, one output cell at a time."""

import numpy as np


def slow_conv(x, kernel, stride: int, dilation: int = 1) -> np.ndarray:
    """[H W C] with zeros around, one output cell at a time."""
    size = kernel.shape[0]
    margin = dilation * (size // 2)
    reach = dilation * (size - 1) + 1
    x = np.pad(np.asarray(x, np.float64), [(margin, margin)] * 2 + [(0, 0)])
    h, w = ((length - reach) // stride + 1 for length in x.shape[:2])
    out = np.zeros((h, w, kernel.shape[3]))
    for row, column in np.ndindex(h, w):
        y0, x0 = row * stride, column * stride
        window = x[y0 : y0 + reach : dilation, x0 : x0 + reach : dilation]
        out[row, column] = np.einsum("ijc,ijcd->d", window, kernel)
    return out


def slow_max_pool(x) -> np.ndarray:
    """3x3, stride 2, one cell of -inf around."""
    x = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    h, w = ((length - 3) // 2 + 1 for length in x.shape[:2])
    return np.array([[x[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((0, 1)) for c in range(w)] for r in range(h)])
