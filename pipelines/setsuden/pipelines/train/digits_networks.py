"""The two networks of the digits workload, and the distortions they are trained under."""

from __future__ import annotations

from collections.abc import Iterable
from math import pi

from .extras import Network, Tensor, extra

CLASSES = 10
WIDTHS = (24, 24, 48, 56)
"""Channels of a teacher member's four convolutions; multiples of 8 fill vector registers."""

MAX_DEGREES = 12.0
MAX_ZOOM = 0.12
MAX_SHIFT_PIXELS = 2.0
HALF_SIDE = 14.0


def student() -> Network:
    """730 parameters: 4 x 4 average pooling down to 7 x 7, then a perceptron with 12 hidden units.

    Pooling sits inside the graph, so the student takes the same ``[n, 1, 28, 28]`` as the teacher.
    """
    nn = extra("torch").nn
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 12), nn.ReLU(), nn.Linear(12, CLASSES)
    )


def teacher_member() -> Network:
    """68 k parameters: two pairs of 3 x 3 convolutions, each pooled by two, and a linear layer."""
    nn = extra("torch").nn
    one, two, three, four = WIDTHS
    return nn.Sequential(
        *_convolution(1, one),
        *_convolution(one, two),
        nn.MaxPool2d(2),
        *_convolution(two, three),
        *_convolution(three, four),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(four * 49, CLASSES),
    )


def ensemble(members: Iterable[Network]) -> Network:
    """One network whose logits are the mean of its members'."""
    torch = extra("torch")

    class Ensemble(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is Any: see extras
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(members)

        def forward(self, image: Tensor) -> Tensor:
            return sum(member(image) for member in self.members) / len(self.members)

    return Ensemble()


def distort(images: Tensor, strength: float = 1.0) -> Tensor:
    """Each image of ``[n, 1, 28, 28]`` turned, zoomed and shifted a little, by torch's seed.

    ``strength`` scales the greatest turn, zoom and shift.
    """
    functional = extra("torch.nn.functional")
    moves = _affine(len(images), strength)
    grid = functional.affine_grid(moves, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _affine(count: int, strength: float) -> Tensor:
    torch = extra("torch")
    angle, zoom, across, down = (strength * (2 * torch.rand(4, count) - 1)).unbind()
    angle, zoom = angle * (MAX_DEGREES * pi / 180), 1 + zoom * MAX_ZOOM
    cos, sin, shift = zoom * angle.cos(), zoom * angle.sin(), MAX_SHIFT_PIXELS / HALF_SIDE
    rows = [cos, -sin, across * shift, sin, cos, down * shift]
    return torch.stack(rows, dim=1).reshape(count, 2, 3)


def _convolution(inputs: int, outputs: int) -> list[Network]:
    nn = extra("torch").nn
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
