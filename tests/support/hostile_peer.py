"""Peers with valid logins that send whatever may hurt, over everything that they may use."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import nats
from nats.aio.client import Client

Headers = dict[str, str]


class Hostile:
    """One peer: generated messages to generated subjects, as fast as the server takes them."""

    def __init__(
        self, seed: int, subjects: Sequence[str], victims: Callable[[], list[str]]
    ) -> None:
        self._random = random.Random(seed)
        self._subjects, self._victims = list(subjects), victims
        self.sent = 0
        self.stopping = False

    async def run(self, url: str, user: str | None, password: str | None) -> None:
        """Until told to stop; connects again whenever the server has had enough."""
        client: Client | None = None
        while not self.stopping:
            try:
                if client is None or client.is_closed:
                    client = await nats.connect(
                        url, user=user, password=password, allow_reconnect=False, error_cb=_ignore
                    )
                for _ in range(50):
                    await self._send(client)
                await client.flush(timeout=10)
            except (nats.errors.Error, OSError, TimeoutError):
                client = None
            await asyncio.sleep(0)
        if client is not None:
            await client.close()

    async def _send(self, client: Client) -> None:
        subject, body, headers = self._subject(), self._body(), self._headers()
        reply = self._subject() if self._random.random() < 0.5 else ""
        await client.publish(subject, body, reply=reply, headers=headers or None)
        self.sent += 1

    def _subject(self) -> str:
        chance = self._random
        subject = chance.choice(self._subjects)
        victims = self._victims()
        if victims and chance.random() < 0.7:
            # Where the newest event of a victim is, or is about to be.
            place = chance.choice(victims[-20:])
            kind = chance.choice(["esc", "res", "late", "push.res", "push.late"])
            subject = f"{kind}.{place}"
        if chance.random() < 0.05:
            subject = subject.replace(chance.choice(subject.split(".")), "x", 1)
        return subject

    def _body(self) -> bytes:
        chance = self._random
        kind = chance.random()
        if kind < 0.25:
            return chance.randbytes(chance.choice([0, 1, 16, 784, 20_000]))
        if kind < 0.3:
            return b"[" * chance.choice([10, 10_000, 200_000])
        if kind < 0.4:
            return json.dumps(chance.choice([None, 1, "x", [], {}, {"error": {}}, [{}]])).encode()
        return json.dumps(self._result()).encode()

    def _result(self) -> dict[str, Any]:
        chance, victims = self._random, self._victims()
        place = chance.choice(victims[-20:]) if victims else "r1.p1.d1.d1-00000000-1"
        region, pipeline, device, event_id = place.split(".")
        index = chance.choice([0, 1, 2, 10**9, -1])
        made: dict[str, Any] = {
            "event_id": event_id,
            "pipeline": chance.choice([pipeline, "other", "a.b", None]),
            "device": chance.choice([device, "other"]),
            "region": region,
            "status": chance.choice(
                ["final", "dead", "provisional", "superseded", "expired", "made-up", 7]
            ),
            "tier": chance.choice(["cloud", "edge", None, "moon"]),
            "answer": {
                "label": chance.choice(["low", "middle", "high", "forged", 5]),
                "index": index,
                "confidence": chance.choice([1.0, 0.99, 2.0, -1, "sure", float("nan")]),
                "scores": chance.choice([[], [1.0, 0.0, 0.0], [9.0, -3.0, 1.0], [1.0] * 5]),
            },
            "trace_id": chance.choice(["0" * 32, f"{chance.getrandbits(128):032x}", "", None]),
            "at": chance.choice(["2026-01-01T00:00:00Z", "never", 0]),
            "error": chance.choice([None, {"code": "x", "message": "y"}, "no"]),
            "energy": chance.choice([{}, {"cloud": {"joules": -(10**9)}}, None]),
        }
        if chance.random() < 0.3:
            del made[chance.choice(sorted(made))]
        return made

    def _headers(self) -> Headers:
        chance = self._random
        victims = self._victims()
        place = chance.choice(victims[-20:]) if victims else "r1.p1.d1.d1-00000000-1"
        every: Headers = {
            "Status": chance.choice(["404", "200", "abc", "503", "100"]),
            "Description": "No Messages",
            "Nats-Stream": chance.choice(["RES", "EVT", "x"]),
            "Nats-Subject": chance.choice([f"res.{place}", "evt.p1.d1", "x"]),
            "Nats-Sequence": chance.choice(["1", "-1", "abc", "9" * 30]),
            "Nats-Last-Sequence": chance.choice(["0", "abc", "9" * 30]),
            "Nats-Expected-Last-Subject-Sequence": chance.choice(["0", "7", "abc"]),
            "Nats-Rollup": chance.choice(["all", "sub"]),
            "Nats-TTL": "1s",
            "Nats-Msg-Id": chance.choice([f"{place}", "x"]),
            "Nats-Trace-Dest": chance.choice([f"push.res.{place}", "otel.hops", "x"]),
            "setsuden-tier": chance.choice(["edge", "cloud"]),
            "setsuden-ttl-ms": chance.choice(["0", "-1", "9" * 30, "x"]),
            "setsuden-copy": "1",
            "setsuden-body-bytes": "5",
            "ce-id": chance.choice(["1", "", "x" * 5000]),
            "ce-source": "s",
            "ce-specversion": chance.choice(["1.0", "9"]),
            "ce-deadline": chance.choice(["9999-01-01T00:00:00Z", "x"]),
            "ce-ttlms": chance.choice(["0", "9" * 30, "5"]),
            "ce-reply": chance.choice(["$JS.API.STREAM.DELETE.RES", f"push.res.{place}", "x y"]),
            "ce-idempotencykey": chance.choice(["k", "x" * 5000]),
            "content-type": chance.choice(["application/octet-stream", "x"]),
            "inference-header-content-length": chance.choice(["0", "9" * 12, "x"]),
            "traceparent": chance.choice(["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x"]),
        }
        chosen = chance.sample(sorted(every), chance.choice([0, 0, 1, 3, 8]))
        return {name: every[name] for name in chosen}


async def _ignore(_: Exception) -> None:
    """Every refusal of the server is meant."""
