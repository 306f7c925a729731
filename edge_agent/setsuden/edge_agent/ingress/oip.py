"""The Open Inference Protocol (v2) as ``tritonclient[http]`` speaks it.

Binary tensors, requested outputs and classification are served. One request is one observation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from setsuden.pipelines import codec
from setsuden.pipelines.pipeline import Pipeline
from setsuden.schemas.errors import (
    InvalidEventError,
    InvalidTensorError,
    RejectedError,
    RequestRefusedError,
)
from setsuden.schemas.event import TENSOR_LENGTH_HEADER, Event, trace_id_of
from setsuden.schemas.result import Answer, Result, Tier

from . import json_tensor

INPUT, LABEL, SCORES = "observation", "label", "scores"
MAX_ID_CHARACTERS = 256
_PASSED_ON = (
    "traceparent", "tracestate", "baggage", "ce-traceid", "ce-idempotencykey", "ce-deadline",
    "ce-ttlms",
    "ce-priority", "ce-residency",
)  # fmt: skip
_UNSERVED = ("sequence_id", "shared_memory_region")
"""Parameters that cannot be ignored: the answer would be another than was asked for."""


class Wanted(NamedTuple):
    """One output as the client wants it."""

    name: str
    binary: bool
    classes: int = 0
    """Above 0: so many strings ``score:index:label``, the best first."""


class Inference(NamedTuple):
    """An inference request."""

    event: Event
    request_id: str | None
    outputs: tuple[Wanted, ...]


# -- what is served ---------------------------------------------------------------------------


def server() -> dict[str, Any]:
    """Server metadata."""
    return {
        "name": "setsuden",
        "version": version("setsuden"),
        "extensions": ["binary_tensor_data", "classification", "model_configuration"],
    }


def metadata(student: Pipeline) -> dict[str, Any]:
    """Model metadata of one pipeline."""
    return {
        "name": student.spec.name,
        "versions": [student.manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(*row) for row in _inputs(student)],
        "outputs": [_tensor(*row) for row in _outputs(student)],
    }


def config(student: Pipeline) -> dict[str, Any]:
    """Model configuration of one pipeline: shapes are whole, as in the metadata."""
    return {
        "name": student.spec.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [_configured(*row) for row in _inputs(student)],
        "output": [_configured(*row) for row in _outputs(student)],
    }


def index(students: Mapping[str, Pipeline]) -> list[dict[str, str]]:
    """The repository's index."""
    return [
        {"name": name, "version": student.manifest.version, "state": "READY", "reason": ""}
        for name, student in sorted(students.items())
    ]


def check_version(student: Pipeline, wanted: str | None) -> None:
    """Raises RequestRefusedError unless the path names this version or none."""
    if wanted is not None and wanted != student.manifest.version:
        raise RequestRefusedError(
            f"{student.spec.name} has no version {wanted[:64]!r}",
            http_status=404,
            field="version",
            remedy=f"leave it out, or ask for {student.manifest.version}",
        )


def _inputs(student: Pipeline) -> list[tuple[str, str, list[int]]]:
    declared = student.manifest.observation
    return [(INPUT, codec.OIP_NAMES[declared.dtype], [1, *declared.shape])]


def _outputs(student: Pipeline) -> list[tuple[str, str, list[int]]]:
    return [(LABEL, "BYTES", [1]), (SCORES, "FP64", [1, len(student.manifest.classes)])]


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _configured(name: str, datatype: str, dims: list[int]) -> dict[str, Any]:
    kind = "STRING" if datatype == "BYTES" else datatype
    return {"name": name, "data_type": f"TYPE_{kind}", "dims": dims}


# -- requests ---------------------------------------------------------------------------------


def read(headers: Mapping[str, str], body: bytes, student: Pipeline, device: str) -> Inference:
    """The inference request, its tensor as octets.

    Raises InvalidTensorError, InvalidEventError or PayloadTooLargeError, with the trace id.
    """
    try:
        head, tail = _split(headers, body, student)
        octets = _observation(head, tail, student)
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        passed |= {"ce-id": uuid4().hex, "ce-source": "/v2", "content-type": codec.OCTETS}
        event = Event.from_headers(passed, octets, pipeline=student.spec.name, device=device)
        return Inference(event, _request_id(head), _wanted(head))
    except RejectedError as error:
        error.trace_id = trace_id_of(headers)
        raise


def _split(
    headers: Mapping[str, str], body: bytes, student: Pipeline
) -> tuple[dict[str, Any], bytes | None]:
    """(the JSON, the binary tail or None)."""
    codec.check_size(len(body), student.spec.limits.max_body_bytes + codec.MAX_TENSOR_HEADER_BYTES)
    given, tail = headers.get(TENSOR_LENGTH_HEADER), None
    if given is not None:
        if not (given.isascii() and given.isdigit()) or len(given) > 12:
            raise InvalidTensorError("no whole number", field=TENSOR_LENGTH_HEADER)
        length = int(given)
        if length > min(len(body), codec.MAX_TENSOR_HEADER_BYTES):
            raise InvalidTensorError(
                f"a JSON part of {length} bytes is longer than the body or "
                f"{codec.MAX_TENSOR_HEADER_BYTES}",
                field=TENSOR_LENGTH_HEADER,
            )
        body, tail = body[:length], body[length:]
    try:
        head = json.loads(body.decode(), parse_constant=_refuse_constant)
        if not isinstance(head, dict):
            raise TypeError  # noqa: TRY301  # one answer for whatever is no request
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidTensorError(
            "the body is no inference request in JSON",
            field="body",
            remedy='{"inputs": [{"name", "shape", "datatype", "data"}]}',
        ) from error
    return head, tail


def _observation(head: dict[str, Any], tail: bytes | None, student: Pipeline) -> bytes:
    declared, tensors = student.manifest.observation, head.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise InvalidTensorError(
            "a request has one input", field="inputs", remedy=f'[{{"name": "{INPUT}", …}}]'
        )
    tensor = tensors[0]
    if tensor.get("name") != INPUT:
        raise InvalidTensorError(
            f"no input {str(tensor.get('name'))[:64]!r}",
            field="inputs[0].name",
            remedy=f"the input is called {INPUT}",
        )
    shape = tensor.get("shape")
    codec.check_tensor(
        tuple(shape) if isinstance(shape, list) else (), tensor.get("datatype"), declared
    )
    parameters = _parameters(head) | _parameters(tensor)
    for name in _UNSERVED:
        if parameters.get(name):
            raise InvalidTensorError(f"{name} is not served", field=f"parameters.{name}")
    return _octets(tensor, parameters.get("binary_data_size"), tail, student)


def _octets(tensor: dict[str, Any], size: object, tail: bytes | None, student: Pipeline) -> bytes:
    if tail is not None and size is not None:
        if size != len(tail) or isinstance(size, bool) or "data" in tensor:
            raise InvalidTensorError(
                f"binary_data_size is {str(size)[:20]}, but {len(tail)} bytes follow the JSON",
                field="inputs[0].parameters.binary_data_size",
            )
        return tail
    if tail or size is not None or "data" not in tensor:
        raise InvalidTensorError(
            f"the input has neither data nor a binary tail ({TENSOR_LENGTH_HEADER} and "
            "binary_data_size go together)",
            field="inputs[0].data",
        )
    return json_tensor.octets(tensor["data"], student.manifest.observation, "inputs[0].data")


def _request_id(head: dict[str, Any]) -> str | None:
    given = head.get("id")
    if given is not None and (not isinstance(given, str) or len(given) > MAX_ID_CHARACTERS):
        raise InvalidEventError(
            f"the id is no string of at most {MAX_ID_CHARACTERS} characters", field="id"
        )
    return given


def _wanted(head: dict[str, Any]) -> tuple[Wanted, ...]:
    """The outputs asked for, all when none is named."""
    binary = _parameters(head).get("binary_data_output") is True
    named = head.get("outputs")
    if not named:
        return Wanted(LABEL, binary), Wanted(SCORES, binary)
    if not isinstance(named, list):
        raise InvalidTensorError("outputs is no list", field="outputs")
    return tuple(_output(place, output, binary) for place, output in enumerate(named[:16]))


def _output(place: int, output: object, binary: bool) -> Wanted:
    field = f"outputs[{place}]"
    name = output.get("name") if isinstance(output, dict) else None
    if not isinstance(output, dict) or name not in {LABEL, SCORES}:
        raise InvalidTensorError(
            f"no output {str(name)[:64]!r}", field=field, remedy=f"use {LABEL} or {SCORES}"
        )
    parameters = _parameters(output)
    classes = parameters.get("classification", 0)
    right = isinstance(classes, int) and 0 <= classes <= 1 << 20 and not isinstance(classes, bool)
    if not right or (classes and name != SCORES) or parameters.get("shared_memory_region"):
        raise InvalidTensorError(
            f"{name} cannot be had in that form", field=f"{field}.parameters",
            remedy=f"classification is of {SCORES}, and shared memory is not served",
        )  # fmt: skip
    return Wanted(name, parameters.get("binary_data", binary) is True, classes)


def _parameters(part: dict[str, Any]) -> dict[str, Any]:
    given = part.get("parameters")
    return given if isinstance(given, dict) else {}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


# -- answers ----------------------------------------------------------------------------------


def answer(result: Result, student: Pipeline, inference: Inference) -> tuple[bytes, int | None]:
    """(body, length of its JSON when binary tensors follow).

    The result's standing is in its parameters. Raises RequestRefusedError when it has no answer.
    """
    if result.answer is None:
        raise _unanswered(result)
    tails: list[bytes] = []
    outputs = [_encoded(wanted, result.answer, student, tails) for wanted in inference.outputs]
    head: dict[str, Any] = {
        "model_name": result.pipeline,
        "model_version": _version(result, student),
    }
    if inference.request_id is not None:
        head["id"] = inference.request_id
    head["parameters"] = {
        "status": result.status.value,
        "tier": result.tier.value if result.tier is not None else "none",
        "event_id": result.event_id,
        "trace_id": result.trace_id,
    }
    head["outputs"] = outputs
    text = json.dumps(head).encode()
    binary = any(wanted.binary for wanted in inference.outputs)
    return text + b"".join(tails), len(text) if binary else None


def _version(result: Result, student: Pipeline) -> str:
    """Of the student that answered, which may have been replaced since the request came."""
    if result.tier is Tier.EDGE and result.model is not None:
        return result.model.version
    return student.manifest.version


def _encoded(
    wanted: Wanted, given: Answer, student: Pipeline, tails: list[bytes]
) -> dict[str, Any]:
    """One output; its bytes are put behind the others' when it is wanted in binary."""
    if wanted.name == SCORES and not wanted.classes:
        scores = list(given.scores)
        tensor = _tensor(SCORES, "FP64", [1, len(scores)])
        raw = np.array(scores, dtype="<f8").tobytes() if wanted.binary else b""
        data: list[Any] = scores
    else:
        data = [given.label] if wanted.name == LABEL else _classes(given, student, wanted.classes)
        tensor = _tensor(
            wanted.name, "BYTES", [len(data)] if wanted.name == LABEL else [1, len(data)]
        )
        raw = b"".join(_bytes_element(text) for text in data)
    if not wanted.binary:
        return tensor | {"data": data}
    tails.append(raw)
    return tensor | {"parameters": {"binary_data_size": len(raw)}}


def _classes(given: Answer, student: Pipeline, count: int) -> list[str]:
    ranked = sorted(enumerate(given.scores), key=lambda pair: -pair[1])[:count]
    classes = student.manifest.classes
    return [f"{score:f}:{place}:{classes[place]}" for place, score in ranked]


def _bytes_element(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "little") + raw


def _unanswered(result: Result) -> RequestRefusedError:
    """A dead letter, or a hard case that no student answers until the cloud does."""
    dead = result.error is not None and result.is_final
    refused = RequestRefusedError(
        f"dead letter: {result.error.message}" if dead and result.error else "no answer yet",
        http_status=502 if dead else 504,
        field="",
        remedy=f"see /events/{result.event_id}",
    )
    refused.trace_id = result.trace_id
    return refused
