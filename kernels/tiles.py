"""What all kernels share: products in a stated precision, sums of products, the flat update of a parameter."""

import triton
import triton.language as tl

#: inner dimensions up to this wide are multiplied by broadcasting rather than by tl.dot, which pads to 16
THIN = tl.constexpr(4)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, accumulated in float32; PRECISION: "ieee", "tf32", "tf32x3" or "bf16" operands."""
    if PRECISION == "bf16":
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def load_tile(base, rows, cols, row_stride, col_stride, row_mask, col_mask):
    """base[rows · row_stride + cols · col_stride] as [rows, cols], zero outside the masks."""
    offsets = rows[:, None] * row_stride + cols[None, :] * col_stride
    return tl.load(base + offsets, mask=row_mask[:, None] & col_mask[None, :], other=0.0)


@triton.jit
def rows_of(weights, num, start, COUNT: tl.constexpr, WEIGHTED: tl.constexpr):
    """COUNT row numbers from `start`, and which of them are samples of positive weight."""
    rows = start + tl.arange(0, COUNT)
    real = rows < num
    if WEIGHTED:
        real = tl.load(weights + rows, mask=real, other=0.0) > 0
    return rows, real


@triton.jit
def store_tile(base, rows, cols, row_stride, value, row_mask, col_mask):
    offsets = rows[:, None] * row_stride + cols[None, :]
    tl.store(base + offsets, value, mask=row_mask[:, None] & col_mask[None, :])


@triton.jit
def bias_places(o, ROWS: tl.constexpr, OUT: tl.constexpr, BIAS: tl.constexpr, APPEND: tl.constexpr):
    """Where outputs o find what is added to them, from the bias on, and which of them do.

    The first ROWS of OUT outputs are a linear layer's, with a bias or not; the others are a parameter of their own.
    """
    there = o < OUT
    if not BIAS:
        there = there & (o >= ROWS)
    return tl.where(o < ROWS, o, APPEND + o - ROWS), there


@triton.jit
def tanh(x):
    """Within two units in the last place: a polynomial near zero, where 1 − 2/(e²ˣ + 1) would cancel."""
    square = x * x
    series = -5.70498872745e-3 * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    near = x + x * square * series
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def activate(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        u = tl.where(u <= 0, 0.0, u)  # NaN stays NaN
    elif ACTIVATION == "tanh":
        u = tanh(u)
    return u


@triton.jit
def hand_out(value, at, mask, sink, MODE: tl.constexpr):
    """One tile of a gradient to where the pass wants it: modes as of `flat.Sink`.

    sink: its (source, rates, target, direction), pointers of one task.
    """
    source, rates, target, direction = sink
    if MODE == "plain":
        tl.store(target + at, value, mask=mask)
    else:
        old = tl.load(source + at, mask=mask, other=0.0)
        if MODE == "lr":
            tl.store(target + at, tl.load(target + at, mask=mask, other=0.0) - value * old, mask=mask)
        else:
            rate = tl.load(rates + at, mask=mask, other=0.0)
            if MODE == "step":
                tl.store(target + at, old - rate * value, mask=mask)
            else:
                new = value if MODE == "gradient" else old - value
                tl.store(target + at, new, mask=mask)
                tl.store(direction + at, rate * new, mask=mask)


@triton.jit
def emit(target, offsets, mask, gradient, product, MODE: tl.constexpr):
    """Hands one tile of a gradient, and of the Hessian's product, to where the pass wants it.

    target: (theta, theta_next, inner_lr, adjoint, lr_gradient) of one task, each [P].
    MODE: "step" θ⁺ = θ − A∘g; "gradient" λ = g; "reverse" λ −= Hv; "reverse+lr" also ∂A −= g∘λ;
    "lr" only that; "product" λ = Hv.
    """
    theta, theta_next, inner_lr, adjoint, lr_gradient = target
    if MODE == "step":
        old = tl.load(theta + offsets, mask=mask, other=0.0)
        rate = tl.load(inner_lr + offsets, mask=mask, other=0.0)
        tl.store(theta_next + offsets, old - rate * gradient, mask=mask)
    elif MODE == "gradient":
        tl.store(adjoint + offsets, gradient, mask=mask)
    elif MODE == "product":
        tl.store(adjoint + offsets, product, mask=mask)
    else:
        old = tl.load(adjoint + offsets, mask=mask, other=0.0)
        if MODE != "reverse":
            sums = tl.load(lr_gradient + offsets, mask=mask, other=0.0)
            tl.store(lr_gradient + offsets, sums - gradient * old, mask=mask)
        if MODE != "lr":
            tl.store(adjoint + offsets, old - product, mask=mask)
