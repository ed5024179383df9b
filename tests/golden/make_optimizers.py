"""Make optimizers.json: trajectories of PyTorch's optimizers, and of its one-cycle schedule.

    python tests/golden/make_optimizers.py

Needs PyTorch (made with 2.13.0, CPU), which the tests do not. The gradient is a formula
of the weights and the step, so that both sides compute it from their own weights; errors
of float32 then neither grow nor hide. Runs are in float64 on their side.
"""

import json
import math
from pathlib import Path

import torch

N, STEPS = 5, 100
CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.3, "eps": 1e-6}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.02, "alpha": 0.95, "eps": 1e-6}),
    "adam": (torch.optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adamw": (
        torch.optim.AdamW,
        {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1},
    ),
}


def start():
    return [math.sin(1.0 + 2.0 * k) for k in range(N)]


def gradient(w, step):
    """Return the gradient of a bowl of unequal axes, pushed about by a wave."""
    k = torch.arange(N, dtype=torch.float64)
    return (0.2 + k / N) * (w - torch.cos(k)) + 0.3 * torch.sin(0.7 * step + k)


def trajectory(kind, options):
    w = torch.tensor(start(), dtype=torch.float64, requires_grad=True)
    optimizer = kind([w], **options)
    places = []
    for step in range(STEPS):
        w.grad = gradient(w.detach(), step)
        optimizer.step()
        places.append([float(f"{x:.12g}") for x in w.detach().tolist()])
    return places


def one_cycle(total):
    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.4, total_steps=total, cycle_momentum=False
    )
    rates = []
    for _ in range(total):
        rates.append(float(f"{optimizer.param_groups[0]['lr']:.15g}"))
        optimizer.step()
        if len(rates) < total:
            schedule.step()
    return rates


def main():
    golden = {
        "torch": torch.__version__,
        "optimizers": {
            name: {"options": options, "places": trajectory(kind, options)}
            for name, (kind, options) in CASES.items()
        },
        "one_cycle": {str(total): one_cycle(total) for total in (10, 100, 333)},
    }
    path = Path(__file__).with_name("optimizers.json")
    path.write_text(json.dumps(golden).replace("], ", "],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
