"""PyTorch with the authors' schedulefree on the dense classifiers, where both are installed."""

import importlib.util
import itertools
import time

import numpy as np
from race import Result
from workloads import Workload

NAME = "torch, schedulefree's AdamW, He, default rate"
INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "schedulefree"))


def takes(workload: str) -> bool:
    """Whether the net of this workload is written here in PyTorch."""
    return INSTALLED and workload in ("W1", "W2")


def run(workload: Workload, target: float, seed: int) -> Result:
    """Trains 20 layers of 100 ReLU units in PyTorch's eager loop, as its users would."""
    import schedulefree
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data = workload.data()
    wall, cpu = time.perf_counter(), time.process_time()
    sizes = [data.train[0].shape[1], *[100] * 20]
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(100, 10))
    for layer in net[:-1:2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    optimizer = schedulefree.AdamWScheduleFree(net.parameters())
    x, y = (torch.from_numpy(np.ascontiguousarray(a)) for a in data.train)
    loss = nn.CrossEntropyLoss()
    scores: list[float] = []
    for _ in range(workload.epochs):
        optimizer.train()
        for rows in torch.randperm(len(x)).split(workload.batch):
            optimizer.zero_grad()
            loss(net(x[rows]), y[rows].long()).backward()
            optimizer.step()
        optimizer.eval()
        scores.append(accuracy(net, *data.validation))
        if len(scores) > 1 and min(scores[-2:]) >= target:
            break
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    hit = len(scores) > 1 and min(scores[-2:]) >= target
    steps = len(scores) * (len(x) // workload.batch)
    return Result(hit, steps, wall, cpu, accuracy(net, *data.test), scores)


def accuracy(net, x: np.ndarray, y: np.ndarray) -> float:
    import torch

    with torch.no_grad():
        return float((net(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
