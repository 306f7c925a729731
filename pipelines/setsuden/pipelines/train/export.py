"""From trained networks to ONNX files: one input, one output, a free batch axis."""

from __future__ import annotations

from pathlib import Path

from .extras import Network, extra

OPSET = 17
IR_VERSION = 8
"""What opset 17 came with; every ONNX Runtime since 1.12 reads it."""


def export_onnx(network: Network, shape: tuple[int, ...], path: Path) -> None:
    """Write ``network`` as ``image float32 [N, *shape]`` to ``logits float32 [N, classes]``.

    Uses the tracing exporter: it folds batch normalisation into the convolutions and needs no
    further package.
    """
    torch = extra("torch")
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, *shape),),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    tidy(path)


def tidy(path: Path) -> None:
    """Pin the file's versions, drop what names the machine it was made on, and check it."""
    onnx = extra("onnx")
    model = onnx.load(path)
    model.ir_version = IR_VERSION
    model.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
