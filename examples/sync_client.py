"""Submits a hard image, waits for its final answer and prints what it cost (no asyncio).

It also handles the errors that an application meets. The numbers differ from run to run:

    5 by cloud in 12.4 ms
    edge   0.0012 J, table_model
    cloud  0.0071 J, table_model
    trace  d4527e1eaab197b6d51134437400a0ec
"""

from __future__ import annotations

import sys
from pathlib import Path

from setsuden.client import (
    Client,
    RejectedError,
    Result,
    ResultTimeoutError,
    UnavailableError,
)

IMAGE = Path(__file__).with_name("hard.raw")


def main(url: str) -> None:
    with Client(url, device="example-device") as client:
        try:
            result = client.submit("digits", IMAGE.read_bytes(), deadline=30.0).result(timeout=60)
        except RejectedError as error:  # the event is wrong: submitting it again does not help
            sys.exit(f"refused: {error}")
        except (UnavailableError, ResultTimeoutError) as error:  # try again later
            sys.exit(f"no answer: {error} (trace {error.trace_id})")
    show(result)


def show(result: Result) -> None:
    if result.answer is None:  # a dead letter: nobody could answer
        sys.exit(f"{result.status}: {result.error}")
    print(f"{result.answer.label} by {result.tier} in {result.timing.total_ms:.1f} ms")
    for tier, reading in (("edge", result.energy.edge), ("cloud", result.energy.cloud)):
        if reading is not None and reading.joules is not None:
            print(f"{tier:<5}  {reading.joules:.4f} J, {reading.source}")
    print(f"trace  {result.trace_id}")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["nats://127.0.0.1:4222"])
