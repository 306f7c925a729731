"""Gradient descent: the one training loop, and the two losses used with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from .extras import Network, Tensor, extra, progress

LossOf = Callable[[Tensor], Tensor]
"""The loss of one batch, given the row numbers in it."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW under one learning-rate cycle that ends at zero."""

    epochs: int
    batch: int
    peak_rate: float
    weight_decay: float


def fit(name: str, network: Network, rows: int, loss_of: LossOf, schedule: Schedule) -> None:
    """Train ``network`` in place and leave it in inference mode; shuffles with torch's seed."""
    torch = extra("torch")
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
    steps = ceil(rows / schedule.batch) * schedule.epochs
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.peak_rate, total_steps=steps)
    network.train()
    for epoch in range(schedule.epochs):
        total = 0.0
        for index in torch.randperm(rows).split(schedule.batch):
            loss = loss_of(index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            total += float(loss.detach()) * len(index)
        progress(f"{name}: epoch {epoch + 1}/{schedule.epochs}, loss {total / rows:.4f}")
    network.eval()


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against the true classes; ``smoothing`` is spread over all of them."""
    functional = extra("torch.nn.functional")
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


@dataclass(frozen=True)
class Distillation:
    """How much the student listens to the teacher (Hinton, Vinyals and Dean, 2015)."""

    weight: float
    """Share of the loss that is the divergence from the teacher; the rest is cross-entropy."""
    temperature: float
    """Both sides are softened by it, so that the teacher's second choices can be heard."""


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, recipe: Distillation
) -> Tensor:
    """The divergence of softened student from softened teacher logits, mixed with label loss."""
    functional = extra("torch.nn.functional")
    t = recipe.temperature
    divergence = functional.kl_div(
        functional.log_softmax(student / t, dim=1),
        functional.log_softmax(teacher / t, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    # Softening divides the gradient by t squared; multiplying gives both parts their weight back.
    soft = divergence * t * t
    return recipe.weight * soft + (1 - recipe.weight) * label_loss(student, labels)
