"""Where torch.optim defines the same rule, it takes the same steps.

torch is no dependency of the tests; `pip install torch` lets these run.
"""

import numpy as np
import pytest

from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, AdamW, Nadam, RAdam, RMSprop
from tests.optimizers.trajectory import error, gradients, run, start

torch = pytest.importorskip("torch", reason="torch is not installed")


def torch_weights(make):
    weights = [torch.tensor(w, requires_grad=True) for w in start()]
    optimizer = make(weights)
    for gs in gradients():
        for weight, g in zip(weights, gs, strict=True):
            weight.grad = torch.tensor(g)
        optimizer.step()
    return [weight.detach().numpy() for weight in weights]


TWINS = {
    "momentum": (lambda: SGD(0.1, 0.9), lambda w: torch.optim.SGD(w, 0.1, 0.9)),
    "nesterov": (
        lambda: SGD(0.1, 0.9, nesterov=True),
        lambda w: torch.optim.SGD(w, 0.1, 0.9, nesterov=True),
    ),
    "adagrad": (
        lambda: Adagrad(0.01, 0.0, epsilon=1e-16),
        lambda w: torch.optim.Adagrad(w, 0.01, eps=1e-20),
    ),
    "rmsprop": (
        lambda: RMSprop(0.001, 0.99, epsilon=1e-16),
        lambda w: torch.optim.RMSprop(w, 0.001, 0.99, eps=1e-20),
    ),
    "adam": (
        lambda: Adam(0.01, epsilon=1e-8, epsilon_mode="outside"),
        lambda w: torch.optim.Adam(w, 0.01),
    ),
    "amsgrad": (
        lambda: Adam(0.01, epsilon=1e-8, epsilon_mode="outside", amsgrad=True),
        lambda w: torch.optim.Adam(w, 0.01, amsgrad=True),
    ),
    "adamw": (
        lambda: AdamW(0.01, 0.1, epsilon=1e-8, epsilon_mode="outside"),
        lambda w: torch.optim.AdamW(w, 0.01, weight_decay=0.1),
    ),
    "adamax": (lambda: Adamax(0.01, epsilon=1e-8), lambda w: torch.optim.Adamax(w, 0.01)),
    "nadam": (
        lambda: Nadam(0.01, momentum_schedule="dozat", epsilon=1e-20),
        lambda w: torch.optim.NAdam(w, 0.01, eps=1e-20),
    ),
    "radam": (lambda: RAdam(0.01), lambda w: torch.optim.RAdam(w, 0.01)),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("rule", TWINS)
def test_agrees_with_torch_in_float64(rule, float64):
    ours, theirs = TWINS[rule]
    weights, _ = run(ours(), gradients(), "graph", "float64")
    # Torch adds ε to |g| where Adamax adds it to the largest; RAdam rounds to float32 inside.
    assert error(weights, torch_weights(theirs)) < 1e-6


def test_the_start_is_not_where_they_end():
    moved = torch_weights(TWINS["adam"][1])
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(moved, start(), strict=True))
