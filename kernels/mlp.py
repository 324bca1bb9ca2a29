"""Fully connected networks, the whole inner loop of a meta-batch in one launch.

A program carries one task after another: the K inner steps, the query pass and the reverse sweep. Programs are as many
as the device keeps busy, so scratch memory and parameter copies are those of the tasks in flight alone.
"""

import triton
import triton.language as tl

from .mlp_forward import FIELDS, HEADER
from .mlp_passes import accumulate, copy, fill, forward, gradient_pass, real_rows, scale


@triton.jit
def _inner_steps(
    theta,
    copies,
    inner_lr,
    adjoint,
    x,
    y,
    weights,
    num,
    losses,
    scratch,
    SIZE: tl.constexpr,
    steps,
    NET: tl.constexpr,
    PADDED: tl.constexpr,
):
    """θ_1 … θ_K into copies [K, P] from θ_0 = theta [P]; losses [K]. Gives where θ_K is."""
    step = 0
    while step < steps:
        current = theta
        if step > 0:
            current = copies + (step - 1) * SIZE
        target = (current, copies + step * SIZE, inner_lr, adjoint, adjoint)
        loss = gradient_pass(
            target, current, x, y, weights, num, scratch, PADDED, NET, False,
            "step",
        )  # fmt: skip
        tl.store(losses + step, loss)
        step += 1
    last = theta
    if steps > 0:
        last = copies + (steps - 1) * SIZE
    return last


@triton.jit
def _reverse_sweep(
    theta,
    copies,
    inner_lr,
    adjoint,
    direction,
    lr_gradient,
    x,
    y,
    weights,
    num,
    scratch,
    SIZE: tl.constexpr,
    steps,
    NET: tl.constexpr,
    PADDED: tl.constexpr,
    MODE: tl.constexpr,
    FLAT: tl.constexpr,
):
    """λ_k = λ_{k+1} − H_k (A∘λ_{k+1}) for k = K − 1 … 0, in place in adjoint [P]."""
    step = steps - 1
    while step >= 0:
        current = theta
        if step > 0:
            current = copies + (step - 1) * SIZE
        if MODE != "lr":
            scale(adjoint, inner_lr, direction, SIZE, FLAT)
        target = (current, current, inner_lr, adjoint, lr_gradient)
        gradient_pass(
            target, direction, x, y, weights, num, scratch, PADDED, NET,
            MODE != "lr", MODE,
        )  # fmt: skip
        step -= 1


@triton.jit(do_not_specialize=["tasks", "steps", "n", "m", "features", "support_y_stride", "query_y_stride"])
def _meta_kernel(
    theta, inner_lr, support_x, support_y, support_w, query_x, query_y, query_w, query_losses, outputs, step_losses,
    sums, lr_sums, copies, vectors, scratch, SIZE: tl.constexpr, SCRATCH, tasks, steps, n, m, features,
    support_y_stride, query_y_stride, NET: tl.constexpr, N_PADDED: tl.constexpr, M_PADDED: tl.constexpr,
    MODE: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    LAST: tl.constexpr = HEADER + (NET[1] - 1) * FIELDS
    copies += program * steps * SIZE
    adjoint = vectors + program * 3 * SIZE
    direction = adjoint + SIZE
    lr_gradient = direction + SIZE
    scratch += program * SCRATCH
    share = 1.0 / tasks
    task = program
    while task < tasks:
        x, y, w = support_x + task * n * features, support_y + task * support_y_stride, support_w + task * n
        last = _inner_steps(
            theta, copies, inner_lr, adjoint, x, y, w, n, step_losses + task * steps, scratch, SIZE, steps, NET,
            N_PADDED,
        )  # fmt: skip
        target = (last, last, inner_lr, adjoint, adjoint)
        loss = gradient_pass(
            target, last, query_x + task * m * features, query_y + task * query_y_stride, query_w + task * m, m,
            scratch, M_PADDED, NET, False, "gradient",
        )  # fmt: skip
        tl.store(query_losses + task, loss)
        copy(scratch + NET[LAST + 9] * NET[0], outputs + task * m * NET[LAST + 1], m * NET[LAST + 1], FLAT)
        if MODE != "reverse" and MODE != "none":
            fill(lr_gradient, 0.0, SIZE, FLAT)
            tl.debug_barrier()
        if MODE != "none":
            _reverse_sweep(
                theta, copies, inner_lr, adjoint, direction, lr_gradient, x, y, w, n, scratch, SIZE, steps, NET,
                N_PADDED, MODE, FLAT,
            )  # fmt: skip
        fresh = (task == program).to(tl.int32)
        accumulate(adjoint, sums + program * SIZE, share, SIZE, fresh, FLAT)
        if MODE != "reverse" and MODE != "none":
            accumulate(lr_gradient, lr_sums + program * SIZE, share, SIZE, fresh, FLAT)
        tl.debug_barrier()
        task += tl.num_programs(0)


@triton.jit(do_not_specialize=["theta_stride", "tasks", "steps", "n", "features", "y_stride"])
def _adapt_kernel(
    theta, theta_stride, inner_lr, x, y, weights, fast, losses, copies, scratch, SIZE: tl.constexpr, SCRATCH, tasks,
    steps, n, features, y_stride, NET: tl.constexpr, PADDED: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    copies += program * steps * SIZE
    scratch += program * SCRATCH
    task = program
    while task < tasks:
        last = _inner_steps(
            theta + task * theta_stride, copies, inner_lr, copies, x + task * n * features, y + task * y_stride,
            weights + task * n, n, losses + task * steps, scratch, SIZE, steps, NET, PADDED,
        )  # fmt: skip
        copy(last, fast + task * SIZE, SIZE, FLAT)
        tl.debug_barrier()
        task += tl.num_programs(0)


@triton.jit(do_not_specialize=["tasks", "n", "features", "y_stride"])
def _hvp_kernel(
    fast, vectors, x, y, weights, products, scratch, SIZE: tl.constexpr, SCRATCH, tasks, n, features, y_stride,
    NET: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    scratch += program * SCRATCH
    task = program
    while task < tasks:
        theta, product = fast + task * SIZE, products + task * SIZE
        target = (theta, theta, theta, product, product)
        gradient_pass(
            target, vectors + task * SIZE, x + task * n * features, y + task * y_stride, weights + task * n, n, scratch,
            PADDED, NET, True, "product",
        )  # fmt: skip
        task += tl.num_programs(0)


@triton.jit(do_not_specialize=["tasks", "n", "features"])
def _predict_kernel(
    fast, x, outputs, scratch, SIZE: tl.constexpr, SCRATCH, tasks, n, features, NET: tl.constexpr, PADDED: tl.constexpr,
    FLAT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    LAST: tl.constexpr = HEADER + (NET[1] - 1) * FIELDS
    scratch += program * SCRATCH
    task = program
    while task < tasks:
        theta = fast + task * SIZE
        rows, real, count, _ = real_rows(x, n, PADDED, False)
        inputs = x + task * n * features
        forward(theta, theta, inputs, scratch, rows, real, count, NET, False)
        copy(scratch + NET[LAST + 9] * NET[0], outputs + task * n * NET[LAST + 1], n * NET[LAST + 1], FLAT)
        tl.debug_barrier()
        task += tl.num_programs(0)
