"""Runs the bundle beside it as a pipeline, on a site of its own, with three readings.

A single hard knock leaves the mean absolute value low, so the student doubts; the teacher does
not.

    calm     calm     edge
    shaking  shaking  edge
    knock    shaking  cloud
"""

from __future__ import annotations

import math
import tempfile
from array import array
from pathlib import Path

from setsuden.client import Client
from setsuden.testing import LocalSite

BUNDLE = Path(__file__).parent
READINGS = {
    "calm": [0.1 * math.sin(n) for n in range(64)],
    "shaking": [1.5 * math.sin(n) for n in range(64)],
    "knock": [4.0 if 30 <= n < 36 else 0.1 for n in range(64)],
}


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalSite(Path(folder), BUNDLE) as site,
        Client(site.url, device=site.device) as client,
    ):
        for name, samples in READINGS.items():
            # numpy arrays can be submitted too; the agent checks their shape and type then
            handle = client.submit(site.pipeline, array("f", samples).tobytes())
            result = handle.result(timeout=60)
            label = result.answer.label if result.answer else result.status
            print(f"{name:<7}  {label:<7}  {result.tier}")


if __name__ == "__main__":
    main()
