"""Forward pass of a fully connected network for one task, and its derivative in a direction of the parameters.

A network is a constexpr tuple NET (see mlp_network.py) of blocks that start at NET[L], each
y = activation(norm(x Wᵀ + b)). All that a backward pass needs lies in scratch memory of the program: nine arrays
[rows, out] of each block, by the letters of docs/mathematics.md.
"""

import triton
import triton.language as tl

from .tiles import THIN, bias_places, dot, load_tile, store_tile, tanh

#: places of a block's arrays in scratch: outputs y, x̂, cotangents of x Wᵀ + b and of y; their derivatives; r and ṙ
Y = tl.constexpr(0)
HAT = tl.constexpr(1)
LINEAR_BAR = tl.constexpr(2)
Y_BAR = tl.constexpr(3)
DERIVATIVE = tl.constexpr(4)
R = tl.constexpr(8)
ARRAYS = 9

#: NET, one flat constexpr tuple (`mlp_network.network` makes it): a header, then the fields of each block
HEADER = tl.constexpr(7)
FIELDS = tl.constexpr(16)


@triton.jit
def add_product(acc, x, weights, rows, real, o, NET: tl.constexpr, L: tl.constexpr):
    """acc [N, o] + x [N, IN] weights[o, IN]ᵀ."""
    IN: tl.constexpr = NET[L]
    TILE: tl.constexpr = NET[4]
    PRECISION: tl.constexpr = NET[6]
    inside = o < NET[L + 13]
    if IN <= THIN:
        for i in tl.static_range(IN):
            column = tl.load(x + rows * IN + i, mask=real, other=0.0)
            weight = tl.load(weights + o * IN + i, mask=inside, other=0.0)
            acc += column[:, None] * weight[None, :]
    else:
        for start in range(0, IN, TILE):
            i = start + tl.arange(0, TILE)
            left = load_tile(x, rows, i, IN, 1, real, i < IN)
            right = load_tile(weights, i, o, 1, IN, i < IN, inside)
            acc = dot(left, right, acc, PRECISION)
    return acc


@triton.jit
def forward_block(
    theta,
    direction,
    x,
    x_dot,
    scratch,
    rows,
    real,
    count,
    NET: tl.constexpr,
    L: tl.constexpr,
    FIRST: tl.constexpr,
    TANGENT: tl.constexpr,
):
    """Writes y, and with TANGENT ẏ along `direction`, of one block; x [N, in], ẋ likewise (zero for the FIRST)."""
    OUT: tl.constexpr = NET[L + 1]
    WEIGHT: tl.constexpr = NET[L + 2]
    BIAS: tl.constexpr = NET[L + 3]
    BASE: tl.constexpr = max(BIAS, 0)
    NORM: tl.constexpr = NET[L + 4]
    ACTIVATION: tl.constexpr = NET[L + 8]
    SIZE: tl.constexpr = NET[0] * OUT
    OUT_TILE: tl.constexpr = NET[L + 10]
    own = scratch + NET[L + 9] * NET[0]
    for start in range(0, OUT, OUT_TILE):
        o = start + tl.arange(0, OUT_TILE)
        inside = o < OUT
        places, added = bias_places(o, NET[L + 13], OUT, BIAS >= 0, NET[L + 15])
        zeros = tl.zeros((rows.shape[0], OUT_TILE), tl.float32)
        y = add_product(zeros, x, theta + WEIGHT, rows, real, o, NET, L)
        if NET[L + 14]:
            y += tl.load(theta + BASE + places, mask=added, other=0.0)[None, :]
        y_dot = zeros
        if TANGENT:
            y_dot = add_product(y_dot, x, direction + WEIGHT, rows, real, o, NET, L)
            if not FIRST:
                y_dot = add_product(y_dot, x_dot, theta + WEIGHT, rows, real, o, NET, L)
            if NET[L + 14]:
                y_dot += tl.load(direction + BASE + places, mask=added, other=0.0)[None, :]
        if NORM:
            y, y_dot = _normalise(y, y_dot, theta, direction, own, rows, real, count, o, NET, L, SIZE, TANGENT)
        if ACTIVATION == "relu":
            y_dot = tl.where(y > 0, y_dot, 0.0)
            y = tl.where(y <= 0, 0.0, y)  # NaN stays NaN
        elif ACTIVATION == "tanh":
            y = tanh(y)
            y_dot = (1.0 - y * y) * y_dot
        store_tile(own, rows, o, OUT, y, real, inside)
        if TANGENT:
            store_tile(own + DERIVATIVE * SIZE, rows, o, OUT, y_dot, real, inside)
    tl.debug_barrier()


@triton.jit
def projected(g, hat, count):
    """g − m(g) − x̂ m(x̂ g) of g [N, o], and m(x̂ g): batch norm's derivative but for r, and its own transpose."""
    along = tl.sum(hat * g, 0) / count
    return g - (tl.sum(g, 0) / count)[None, :] - hat * along[None, :], along


@triton.jit
def _normalise(
    y,
    y_dot,
    theta,
    direction,
    own,
    rows,
    real,
    count,
    o,
    NET: tl.constexpr,
    L: tl.constexpr,
    SIZE: tl.constexpr,
    TANGENT: tl.constexpr,
):
    """Batch norm of y [N, o] over the real rows, and of its derivative; keeps x̂, r and their derivatives."""
    OUT: tl.constexpr = NET[L + 1]
    inside = o < OUT
    mean = tl.sum(tl.where(real[:, None], y, 0.0), 0) / count
    centred = tl.where(real[:, None], y - mean[None, :], 0.0)
    r = 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 0) / count + NET[L + 7])
    hat = centred * r[None, :]
    store_tile(own + HAT * SIZE, rows, o, OUT, hat, real, inside)
    tl.store(own + R * SIZE + o, r, mask=inside)
    scale = tl.zeros_like(r) + 1.0
    if NET[L + 5] >= 0:
        scale = tl.load(theta + NET[L + 5] + o, mask=inside, other=0.0)
    y = scale[None, :] * hat
    if NET[L + 6] >= 0:
        y += tl.load(theta + NET[L + 6] + o, mask=inside, other=0.0)[None, :]
    if TANGENT:
        y_dot = tl.where(real[:, None], y_dot, 0.0)
        moved, along = projected(y_dot, hat, count)
        hat_dot = tl.where(real[:, None], r[None, :] * moved, 0.0)
        store_tile(own + (DERIVATIVE + HAT) * SIZE, rows, o, OUT, hat_dot, real, inside)
        tl.store(own + R * SIZE + OUT + o, -r * r * along, mask=inside)
        y_dot = scale[None, :] * hat_dot
        if NET[L + 5] >= 0:
            y_dot += tl.load(direction + NET[L + 5] + o, mask=inside, other=0.0)[None, :] * hat
        if NET[L + 6] >= 0:
            y_dot += tl.load(direction + NET[L + 6] + o, mask=inside, other=0.0)[None, :]
    return y, y_dot
