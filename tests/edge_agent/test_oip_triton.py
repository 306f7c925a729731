"""The Open Inference Protocol against the client that its users have: ``tritonclient[http]``."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.agent import AgentProcess, config

triton = pytest.importorskip("tritonclient.http")
utils = pytest.importorskip("tritonclient.utils")

MODEL, INPUT = "digits", "observation"
DIGITS = [str(digit) for digit in range(10)]
IMAGE = np.zeros((1, 28, 28), np.uint8)
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent that answers everything itself."""
    folder = tmp_path_factory.mktemp("oip")
    running = AgentProcess(folder, config(pipeline_extra="gate = { threshold = 0.0 }"))
    running.start(link=False)
    yield running
    running.kill()


@pytest.fixture
def client(agent: AgentProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(agent.url.removeprefix("http://"), concurrency=4) as found:
        yield found


def image(array: np.ndarray[Any, Any] = IMAGE, *, binary: bool = True, name: str = INPUT) -> Any:
    kind = utils.np_to_triton_dtype(array.dtype)
    tensor = triton.InferInput(name, list(array.shape), kind)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def refused(call: Callable[[], Any]) -> str:
    """What the client says of a refusal: always a text."""
    with pytest.raises(utils.InferenceServerException) as caught:
        call()
    message = caught.value.message()
    assert isinstance(message, str)
    assert "an exception occurred in the client" not in message
    return message


# -- what is served ---------------------------------------------------------------------------


def test_health_metadata_configuration_and_index_are_served(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert "classification" in client.get_server_metadata()["extensions"]
    (index,) = client.get_model_repository_index()
    assert (index["name"], index["state"]) == (MODEL, "READY")


def test_metadata_and_configuration_tell_of_the_same_tensors(client: Any) -> None:
    metadata, declared = client.get_model_metadata(MODEL), client.get_model_config(MODEL)
    assert metadata["inputs"] == [{"name": INPUT, "datatype": "UINT8", "shape": [1, 28, 28]}]
    assert declared["input"] == [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": [1, 28, 28]}]
    assert [output["shape"] for output in metadata["outputs"]] == [[1], [1, 10]]
    assert [output["dims"] for output in declared["output"]] == [[1], [1, 10]]


def test_the_version_that_metadata_names_is_served_and_no_other(client: Any) -> None:
    (version,) = client.get_model_metadata(MODEL)["versions"]
    assert client.is_model_ready(MODEL, version)
    assert client.get_model_metadata(MODEL, version)["name"] == MODEL
    assert client.get_model_config(MODEL, version)["name"] == MODEL
    assert client.infer(MODEL, [image()], version).as_numpy("label").shape == (1,)
    assert not client.is_model_ready(MODEL, "77")
    assert f"ask for {version}" in refused(lambda: client.infer(MODEL, [image()], "77"))


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda client: client.get_inference_statistics(), "/metrics"),
        (lambda client: client.get_inference_statistics(MODEL), "/metrics"),
        (lambda client: client.load_model(MODEL), "agent.toml"),
        (lambda client: client.unload_model(MODEL), "agent.toml"),
        (lambda client: client.get_trace_settings(), "agent.toml"),
        (lambda client: client.get_log_settings(), "agent.toml"),
        (lambda client: client.get_system_shared_memory_status(), "in the request"),
        (lambda client: client.register_system_shared_memory("a", "/b", 8), "in the request"),
        (lambda client: client.get_cuda_shared_memory_status(), "in the request"),
        (lambda client: client.get_model_metadata("other"), "use one of digits"),
        (lambda client: client.infer("other", [image()]), "use one of digits"),
    ],
)
def test_what_is_not_served_says_what_is(client: Any, call: Any, instead: str) -> None:
    assert instead in refused(lambda: call(client))


# -- inference --------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_binary_and_json_give_the_same_answer(
    client: Any, binary_in: bool, binary_out: bool | None
) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary_out)
            for name in ("scores", "label")
        ]
    result = client.infer(MODEL, [image(binary=binary_in)], outputs=outputs, request_id="r-1")
    (label,), scores = result.as_numpy("label"), result.as_numpy("scores")
    text = label.decode() if isinstance(label, bytes) else label
    assert scores.shape == (1, 10)
    assert text == DIGITS[int(scores.argmax())]
    assert abs(scores.sum() - 1) < 1e-3
    response = result.get_response()
    assert (response["id"], response["parameters"]["tier"]) == ("r-1", "edge")
    if outputs is not None:
        assert [output["name"] for output in response["outputs"]] == ["scores", "label"]


def test_several_requests_keep_their_ids_apart(client: Any, agent: AgentProcess) -> None:
    before = agent.metric("setsuden_accepted_events_total")
    asked = [client.async_infer(MODEL, [image()], request_id=f"r{n}") for n in range(12)]
    answers = [request.get_result() for request in asked]
    assert [answer.get_response()["id"] for answer in answers] == [f"r{n}" for n in range(12)]
    # Equal tensors are equal readings, not one event: no identity was claimed for them.
    assert agent.metric("setsuden_accepted_events_total") == before + 12


def test_without_an_id_the_answer_has_none(client: Any) -> None:
    assert "id" not in client.infer(MODEL, [image()]).get_response()


def test_classification_gives_the_best_classes_first(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("scores", class_count=3)]
    found = client.infer(MODEL, [image()], outputs=wanted).as_numpy("scores")
    rows = [text.decode().split(":") for text in found[0]]
    scores = [float(score) for score, _, _ in rows]
    assert len(rows) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(DIGITS[int(place)] == label for _, place, label in rows)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_bodies_travel_both_ways(client: Any, algorithm: str, binary: bool) -> None:
    result = client.infer(
        MODEL,
        [image(binary=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("scores").shape == (1, 10)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28)])
def test_a_batch_axis_of_one_may_be_there_or_not(client: Any, shape: tuple[int, ...]) -> None:
    assert client.infer(MODEL, [image(np.zeros(shape, np.uint8))]).as_numpy("label") is not None


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (image(name="x"), "the input is called observation"),
        (image(np.zeros((1, 784), np.uint8)), "reshape it to [28, 28]"),
        (image(np.zeros((4, 28, 28), np.uint8)), "send 4 of them"),
        (image(np.zeros((1, 14, 14), np.uint8)), "the 784 elements of one observation"),
        (image(np.zeros((1, 28, 28), np.float32)), "'FP32' is not UINT8"),
        (image(np.array([[b"x"]], dtype=object)), "'BYTES' is not UINT8"),
        (image(np.zeros((1, 28, 28), bool), binary=False), "'BOOL' is not UINT8"),
    ],
)
def test_a_wrong_input_is_refused_with_what_is_right(client: Any, tensor: Any, says: str) -> None:
    assert says in refused(lambda: client.infer(MODEL, [tensor]))


def test_outputs_parameters_and_inputs_that_cannot_be_served_are_refused(client: Any) -> None:
    unknown = [triton.InferRequestedOutput("logits")]
    assert "use label or scores" in refused(lambda: client.infer(MODEL, [image()], outputs=unknown))
    ranked = [triton.InferRequestedOutput("label", class_count=2)]
    assert "classification is of scores" in refused(
        lambda: client.infer(MODEL, [image()], outputs=ranked)
    )
    assert "sequence_id is not served" in refused(
        lambda: client.infer(MODEL, [image()], sequence_id=7, sequence_start=True)
    )
    assert "one input" in refused(lambda: client.infer(MODEL, [image(), image()]))
    shared = triton.InferInput(INPUT, [1, 28, 28], "UINT8").set_shared_memory("region", 784)
    assert "shared_memory_region is not served" in refused(lambda: client.infer(MODEL, [shared]))


def test_a_refusal_carries_the_callers_trace(client: Any) -> None:
    headers = {"traceparent": TRACE}
    message = refused(lambda: client.infer(MODEL, [image(name="x")], headers=headers))
    assert "ab" * 16 in message


def test_the_callers_trace_is_the_events(client: Any) -> None:
    answer = client.infer(MODEL, [image()], headers={"traceparent": TRACE}).get_response()
    assert answer["parameters"]["trace_id"] == "ab" * 16


def test_an_idempotency_key_makes_a_repetition_the_same_event(client: Any) -> None:
    headers = {"ce-idempotencykey": "k-1"}
    first, again = (
        client.infer(MODEL, [image()], headers=dict(headers)).get_response() for _ in range(2)
    )
    assert first["parameters"]["event_id"] == again["parameters"]["event_id"]


def test_a_case_without_an_answer_yet_is_an_error_and_stays_an_event(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    toml = '[models.teacher]\nfile = "t.onnx"\ninput = "x"\noutput = "y"\ndtype = "float32"\n'
    (bundle / "bundle.toml").write_text(
        'name = "far"\nversion = "2.0"\nclasses = ["a", "b"]\n[observation]\n'
        f'dtype = "uint8"\nshape = [2, 2]\n{toml}shape = [4]\n'
    )
    text = config(bundle=bundle, pipeline="far", http="wait_seconds = 0.0")
    lone = AgentProcess(tmp_path / "agent", text)
    try:
        lone.start(link=False)
        with triton.InferenceServerClient(lone.url.removeprefix("http://")) as client:
            tensor = image(np.zeros((2, 2), np.uint8))
            message = refused(lambda: client.infer("far", [tensor], model_version="2.0"))
        event_id = message.split("/events/")[1].split(" ")[0]
        status, result = lone.get(f"/events/{event_id}")
        assert (status, json.loads(result)["status"]) == (202, "provisional")
    finally:
        lone.kill()


# -- bytes that the client would not send -----------------------------------------------------


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": INPUT, "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    return {"inputs": [tensor | changes]}


def post(agent: AgentProcess, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    names.setdefault("content-type", "application/json")
    return agent.post(f"/v2/models/{MODEL}/infer", body, names)


@pytest.mark.parametrize(
    "data",
    [
        [True] * 784,
        ["0"] * 784,
        [None] * 784,
        [0.5] * 784,
        [256] * 784,
        [-1] * 784,
        [0] * 783,
        [[0] * 28] * 27,
        [[0] * 28] * 27 + [[0] * 27],
        [[[0]]] * 784,
        [[]] * 784,
        {},
        0,
        None,
        [],
        [1e300] * 784,
        [10**400] * 784,
    ],
)
def test_json_that_is_not_exactly_the_tensor_is_refused(agent: AgentProcess, data: Any) -> None:
    status, answer = post(agent, json.dumps(request(data=data)).encode())
    assert (status, answer["code"], answer["field"]) == (422, "tensor_invalid", "inputs[0].data")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"[" * 40_000,
        b"\xff\xfe{",
        b'{"inputs": [{"name": "observation", "datatype": "UINT8", "data": [NaN]}]}',
        b'{"inputs": [Infinity]}',
        b'{"inputs": {"name": "observation"}}',
        b'{"inputs": [7]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": "observation", "shape": null, "datatype": "UINT8"}]}',
        b'{"inputs": [{"name": "observation", "shape": [true, 28, 28], "datatype": "UINT8"}]}',
    ],
)
def test_what_is_no_request_is_refused_with_a_text(agent: AgentProcess, body: bytes) -> None:
    status, answer = post(agent, body)
    assert status == 422
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize(
    "changes",
    [{"id": 7}, {"id": "x" * 257}, {"outputs": "label"}, {"outputs": [7]}, {"outputs": [{}]}],
)
def test_malformed_ids_and_outputs_are_refused(
    agent: AgentProcess, changes: dict[str, Any]
) -> None:
    status, answer = post(agent, json.dumps(request() | changes).encode())
    assert status in {400, 422}
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "٣", "70000", "3"])
def test_a_json_length_that_is_wrong_is_refused(agent: AgentProcess, length: str) -> None:
    head = json.dumps(request()).encode()
    status, answer = post(
        agent,
        head + bytes(784),
        inference_header_content_length=length.encode().decode("latin-1"),
    )
    assert status == 422
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize("size", [783, 785, -1, "784", True, None])
def test_a_binary_size_that_is_not_what_follows_is_refused(agent: AgentProcess, size: Any) -> None:
    tensor = request(parameters={"binary_data_size": size})
    del tensor["inputs"][0]["data"]
    head = json.dumps(tensor).encode()
    status, answer = post(agent, head + bytes(784), inference_header_content_length=str(len(head)))
    assert (status, answer["code"]) == (422, "tensor_invalid")


def test_a_compressed_bomb_is_refused_before_it_is_made(agent: AgentProcess) -> None:
    for encoding, bomb in (
        ("gzip", gzip.compress(bytes(200 << 20), 9)),
        ("deflate", zlib.compress(bytes(200 << 20), 9)),
    ):
        status, answer = post(agent, bomb, content_encoding=encoding)
        assert (status, answer["code"]) == (413, "payload_too_large")
    assert agent.peak_mb() < 400


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"no gzip at all", "gzip", 400),
        (gzip.compress(b"{}")[:-4], "gzip", 400),
        (gzip.compress(b"{}") + b"more", "gzip", 400),
        (gzip.compress(b"{}"), "deflate", 400),
        (b"{}", "br", 415),
        (b"{}", "gzip, gzip", 415),
    ],
)
def test_an_encoding_that_cannot_be_undone_is_named(
    agent: AgentProcess, body: bytes, encoding: str, status: int
) -> None:
    answered, answer = post(agent, body, content_encoding=encoding)
    assert (answered, answer["field"]) == (status, "content-encoding")
