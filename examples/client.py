"""Submits two images of digits and prints each answer as it arrives (asyncio).

The student on the device is sure of the first image. It doubts the second one: its answer is
provisional until the teacher in the cloud has seen the image too.

    easy.raw  final        2  edge
    hard.raw  provisional  9  edge
    hard.raw  final        5  cloud
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from setsuden.client import AsyncClient

IMAGES = Path(__file__).parent


async def main(url: str) -> None:
    async with AsyncClient(url, device="example-device") as client:
        for name in ("easy.raw", "hard.raw"):
            handle = await client.submit("digits", (IMAGES / name).read_bytes(), deadline=30.0)
            async for update in handle:
                if update.answer:  # a dead letter has none
                    print(f"{name}  {update.status:<11}  {update.answer.label}  {update.tier}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
