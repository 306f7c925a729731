"""The Open Inference Protocol (v2): existing clients can ask this device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import numpy as np

from setsuden.edge_agent.student import Student
from setsuden.pipelines import codec
from setsuden.schemas.bundle import Observation
from setsuden.schemas.errors import InvalidTensorError
from setsuden.schemas.event import TENSOR_LENGTH_HEADER, Event
from setsuden.schemas.result import Result

_PASSED_ON = ("traceparent", "tracestate", "baggage", "ce-idempotencykey", "ce-deadline")


def server() -> dict[str, Any]:
    """Server metadata."""
    return {
        "name": "setsuden",
        "version": version("setsuden"),
        "extensions": ["binary_tensor_data"],
    }


def metadata(student: Student) -> dict[str, Any]:
    """Model metadata of one pipeline."""
    observation, classes = student.manifest.observation, student.manifest.classes
    return {
        "name": student.spec.name,
        "versions": [student.manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {
                "name": "observation",
                "datatype": codec.OIP_NAMES[observation.dtype],
                "shape": [1, *observation.shape],
            }
        ],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [1]},
            {"name": "scores", "datatype": "FP64", "shape": [1, len(classes)]},
        ],
    }


def read(headers: Mapping[str, str], body: bytes, student: Student, device: str) -> Event:
    """The event in an inference request, its tensor as binary.

    Raises InvalidTensorError or PayloadTooLargeError.
    """
    passed = {name: headers[name] for name in _PASSED_ON if name in headers}
    passed |= {"ce-id": uuid4().hex, "ce-source": "/v2", "content-type": codec.OCTETS}
    if length := headers.get(TENSOR_LENGTH_HEADER):
        passed[TENSOR_LENGTH_HEADER] = length
    else:
        body = _from_json(body, student)
    return Event.from_headers(passed, body, pipeline=student.spec.name, device=device)


def _from_json(body: bytes, student: Student) -> bytes:
    declared = student.manifest.observation
    codec.check_size(len(body), student.spec.limits.max_body_bytes)
    try:
        tensor = json.loads(body)["inputs"][0]
        shape, dtype, data = tuple(tensor["shape"]), tensor["datatype"], tensor["data"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise InvalidTensorError(
            "the body is no inference request",
            field="inputs",
            remedy='{"inputs": [{"name", "shape", "datatype", "data"}]}',
        ) from error
    codec.check_tensor(shape, dtype, declared)
    return _values(data, declared)


def _values(data: object, declared: Observation) -> bytes:
    try:
        array = np.asarray(data)
        typed = array.astype(declared.dtype.value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_number(declared) from error
    lost = typed.dtype.kind in "biu" and bool((typed != array).any())
    if array.dtype.kind not in "biuf" or lost:
        raise _no_number(declared)
    return typed.tobytes()


def _no_number(declared: Observation) -> InvalidTensorError:
    return InvalidTensorError(f"data holds what is no {declared.dtype}", field="inputs[0].data")


def answer(result: Result, student: Student) -> dict[str, Any]:
    """The inference response; our result's standing goes in its parameters."""
    outputs: list[dict[str, Any]] = []
    if result.answer is not None:
        outputs = [
            {"name": "label", "datatype": "BYTES", "shape": [1], "data": [result.answer.label]},
            {
                "name": "scores",
                "datatype": "FP64",
                "shape": [1, len(result.answer.scores)],
                "data": list(result.answer.scores),
            },
        ]
    parameters = {
        "status": result.status.value,
        "tier": result.tier.value if result.tier is not None else "none",
        "event_id": result.event_id,
        "trace_id": result.trace_id,
    }
    return {
        "model_name": result.pipeline,
        "model_version": student.manifest.version,
        "id": result.event_id,
        "parameters": parameters,
        "outputs": outputs,
    }
