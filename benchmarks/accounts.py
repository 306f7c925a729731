"""What an account for every principal costs nats-server, beside one account for everybody.

A device stores escalations as fast as it may, in turns: on a server without logins, and on one with
an account for each of ``devices`` devices, both with ``sync_interval: always``. CPU of nats-server
for each stored message, and its memory for each account. One JSON line.
``python benchmarks/accounts.py [messages] [devices]``.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from tests.support.roles import RolesBroker

from setsuden.link import JetStream, Link, LinkOptions
from setsuden.schemas.roles import Device, Site
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.testing.broker import LocalBroker

ROUNDS = 5
WINDOW = 256
BODY = bytes(1000)


def server_of(broker: LocalBroker) -> psutil.Process:
    """The running nats-server."""
    return psutil.Process(broker.process.pid if broker.process else 0)


async def up(options: LinkOptions, name: str) -> Link:
    """A link that is up; proof of durability is not what is measured."""
    link = Link(options.model_copy(update={"durability": "relaxed"}), name)
    link.start()
    await link.wait_up(20)
    return link


async def make_streams(options: LinkOptions) -> None:
    """As `setsuden cloud streams`."""
    link = await up(options, "operator")
    jetstream = JetStream(link)
    await jetstream.start()
    for stream in all_streams(StreamBounds()):
        await jetstream.apply_stream(stream)
    await link.close()


async def store(link: Link, first: int, count: int) -> None:
    """So many escalations, some on their way at any time."""
    places = asyncio.Semaphore(WINDOW)

    async def one(number: int) -> None:
        async with places:
            await link.store(f"esc.local.p.d-0.d-0-00000000-{number}", BODY)

    async with asyncio.TaskGroup() as tasks:
        for number in range(first, first + count):
            tasks.create_task(one(number))


async def microseconds(broker: LocalBroker, link: Link, first: int, count: int) -> float:
    """CPU of the server for each stored message."""
    server = server_of(broker)
    before = float(sum(server.cpu_times()[:2]))
    await store(link, first, count)
    spent = float(sum(server.cpu_times()[:2])) - before
    return spent / count * 1e6


async def main(messages: int, devices: int) -> None:
    """Both servers side by side, one after the other in each round."""
    site = Site(devices=tuple(Device(name=f"d-{n}", pipelines=("p",)) for n in range(devices)))
    few = Site(devices=site.devices[:1])
    with (
        tempfile.TemporaryDirectory() as name,
        LocalBroker(Path(name) / "open") as free,
        RolesBroker(Path(name) / "few", few) as small,
        RolesBroker(Path(name) / "many", site) as guarded,
    ):
        await make_streams(free.options)
        await make_streams(guarded.login("operator"))
        await make_streams(small.login("operator"))
        grown = server_of(guarded).memory_info().rss
        grown -= server_of(small).memory_info().rss
        links = [await up(free.options, "d-0"), await up(guarded.login("d-0"), "d-0")]
        seen: list[list[float]] = [[], []]
        for turn in range(ROUNDS):
            for broker, link, figures in zip((free, guarded), links, seen, strict=True):
                figures.append(await microseconds(broker, link, turn * messages, messages))
        for link in links:
            await link.close()
    before, after = min(seen[0]), min(seen[1])
    emit(
        "accounts",
        messages=messages,
        devices=devices,
        open_us=before,
        guarded_us=after,
        guarded_of_open=after / before,
        bytes_per_account=grown / max(1, devices - 1),
    )


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [2000, 1000][len(numbers) :])))
