"""The operations that a meta-gradient cannot do without, counted from the Plan.

Per task, with N support and M query samples, K inner steps, and for each linear layer its weights w = in × out, a
product of the layer's input with its weights costs 2·w operations a sample (a multiplication and an addition). In
units of 2·w a sample:

| part                             | first layer | other layers | products                                    |
|----------------------------------|-------------|--------------|---------------------------------------------|
| forward                          | 1           | 1            | x Wᵀ                                        |
| backward                         | 1           | 2            | δᵀ x, δ W                                   |
| tangent of the forward pass      | 1           | 2            | x Ẇᵀ, ẋ Wᵀ                                  |
| tangent of the backward pass     | 1           | 4            | δ̇ᵀ x, δᵀ ẋ, δ̇ W, δ Ẇ                        |

since the first layer's input has no tangent (ẋ = 0) and nobody asks for its gradient (δ W). Each inner step takes
all four on the support set (forward and backward to step, the two tangents for the Hessian-vector product of the
reverse sweep), the query set takes the first two. A forward pass that is taken again is not counted again. Hence

    first layer:   2w (4 K N + 2 M)          other layers:   2w (9 K N + 3 M)

A wide first layer needs less. Its input X stays the same through all steps, and gradients of its weights are δᵀX, so
X Wₖᵀ = X W₀ᵀ − α (X Xₛᵀ) Σ δ: per-step products with w become products with the Gram matrices Xₛ Xₛᵀ and X_q Xₛᵀ, and
the weights themselves are met four times: forward on N and on M samples, and once for the final gradient on each:

    first layer by Gram:   4w (N + M) + in (N (N + 1) + 2 N M) + 4 out (N² (K − 1) + N M)

The smaller of the two counts. What is linear in the number of units (activations, batch norm, losses, biases) or in
the number of parameters (the steps) is not counted at all, so a share of peak stated in these operations is a lower
bound.
"""

from __future__ import annotations

from fastmaml.plan import LinearLayer, Plan


def necessary(plan: Plan, tasks: int, support: int, query: int, steps: int) -> int:
    """Floating-point operations of one exact second-order meta-gradient over all tasks.

    Args:
        plan: with layers.
        tasks, support, query: T, N, M.
        steps: K ≥ 1.
    Raises:
        ValueError: if the plan has no layers.
    """
    if plan.layers is None:
        raise ValueError(f"plan: operations are counted from its layers, and it has none: {plan.obstacle}")
    linear = [layer for layer in plan.layers if isinstance(layer, LinearLayer)]
    if not linear:
        return 0
    # A batch norm in front has parameters, so that the input of the first linear layer has a tangent after all.
    leads = isinstance(next(layer for layer in plan.layers if hasattr(layer, "weight")), LinearLayer)
    total = sum(_hidden(layer, support, query, steps) for layer in linear[leads:])
    if leads:
        total += min(_first(linear[0], support, query, steps), _first_by_gram(linear[0], support, query, steps))
    return tasks * total


def _first(layer: LinearLayer, n: int, m: int, k: int) -> int:
    return 2 * layer.in_features * layer.out_features * (4 * k * n + 2 * m)


def _hidden(layer: LinearLayer, n: int, m: int, k: int) -> int:
    return 2 * layer.in_features * layer.out_features * (9 * k * n + 3 * m)


def _first_by_gram(layer: LinearLayer, n: int, m: int, k: int) -> int:
    weights = 4 * layer.in_features * layer.out_features * (n + m)
    grams = layer.in_features * (n * (n + 1) + 2 * n * m)
    return weights + grams + 4 * layer.out_features * (n * n * (k - 1) + n * m)
