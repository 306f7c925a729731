"""Tells whether time, memory or death of a model's run can depend on the values it is given.

Where it cannot, a trial at load shows what every later run will do, and the model may run inside
a process that does other work too. Where it can (a ``Loop`` whose turns come from the input, a
shape computed from pixels, an integer division), the model belongs into a process of its own.

The judgement is by allow-list: an operator that is not known here is not trusted.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from . import onnx_file
from .failure import FailureKind, TrialError
from .onnx_file import Node, OnnxFile, UnreadableError

MAX_NODES = 100_000


class Origin(IntEnum):
    """What a tensor's values depend on; an operator's output is of its inputs' highest."""

    CONSTANT = 0
    SHAPE = 1
    """On how many items are in the batch, and nothing else."""
    DATA = 2
    """On the observation."""


_BOUNDED: Final = frozenset(
    [
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "And",
        "ArgMax",
        "ArgMin",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "AveragePool",
        "BatchNormalization",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Ceil",
        "Celu",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "Cos",
        "Cosh",
        "DepthToSpace",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Einsum",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Flatten",
        "Floor",
        "GRU",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "Greater",
        "GreaterOrEqual",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Hardmax",
        "Identity",
        "InstanceNormalization",
        "IsInf",
        "IsNaN",
        "LRN",
        "LSTM",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "LpPool",
        "MatMul",
        "MatMulInteger",
        "Max",
        "MaxPool",
        "Mean",
        "MeanVarianceNormalization",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pow",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "RMSNormalization",
        "RNN",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Size",
        "Softmax",
        "Softplus",
        "Softsign",
        "SpaceToDepth",
        "Sqrt",
        "Sub",
        "Sum",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Transpose",
        "Where",
        "Xor",
    ]
)
"""Work and memory follow from the shapes of the inputs alone; indices are checked by the kernel."""

_SHAPED_BY: Final[dict[str, tuple[int, ...]]] = {
    "CumSum": (1,), "Dropout": (1, 2), "Expand": (1,), "OneHot": (1,), "Pad": (1, 3),
    "ReduceL1": (1,), "ReduceL2": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,),
    "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceProd": (1,),
    "ReduceSum": (1,), "ReduceSumSquare": (1,), "Reshape": (1,), "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,),
    "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
"""Bounded where these inputs, which say how large the output is, are not data."""

_WITHOUT_DATA: Final = frozenset(
    {"ConstantOfShape", "EyeLike", "NonZero", "Range", "ScatterElements", "ScatterND"}
)
"""Bounded where no input is data: then the trial's run and every other do the same."""

_FUSED: Final = frozenset(
    [
        "Attention",
        "BiasGelu",
        "BiasSoftmax",
        "DynamicQuantizeMatMul",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "NhwcMaxPool",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuickGelu",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
)
"""What onnxruntime's own optimiser and quantiser write into a file."""

_CLASSIC: Final = frozenset(
    [
        "FeatureVectorizer",
        "Imputer",
        "LinearClassifier",
        "LinearRegressor",
        "Normalizer",
        "SVMClassifier",
        "SVMRegressor",
        "Scaler",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    ]
)
"""scikit-learn's; onnxruntime refuses a tree with a circle when it loads it."""

_DOMAINS: Final = {
    "": _BOUNDED, "ai.onnx": _BOUNDED, "com.microsoft": _FUSED, "ai.onnx.ml": _CLASSIC,
}  # fmt: skip
_STANDARD: Final = frozenset({"", "ai.onnx"})

# Element types of onnx.TensorProto.
_FLOAT, _INT64, _STRING, _BOOL, _UINT8, _INT32 = 1, 7, 8, 9, 2, 6
_FLOATS: Final = frozenset({1, 10, 11, 16})
_TYPE_OF_OUTPUT: Final = {
    "ArgMax": _INT64, "ArgMin": _INT64, "NonZero": _INT64, "Shape": _INT64, "Size": _INT64,
    "ConvInteger": _INT32, "MatMulInteger": _INT32,
    "DynamicQuantizeLinear": _UINT8, "QuantizeLinear": _UINT8,
}  # fmt: skip
_TYPE_OF_INPUT: Final = {"CastLike": 1, "DequantizeLinear": 1, "OneHot": 2, "Where": 1}
"""Outputs whose type is that of another input than the first."""
_SECOND_IS_INDEX: Final = frozenset({"MaxPool", "TopK"})


def why_unbounded(content: bytes) -> str | None:
    """Why a run's cost or crash may depend on its input's values; None when it cannot.

    Raises TrialError for a model that keeps weights in another file: which file, and where, is
    for the model to say, so it is not opened at all.
    """
    _refuse_other_files(content)
    try:
        file = onnx_file.read(content)
    except UnreadableError as error:
        return f"its graph cannot be read: {error}"
    return unbounded_part(file)


def _refuse_other_files(content: bytes) -> None:
    try:
        external = onnx_file.external_tensor(content)
    except UnreadableError as error:
        what = f"weights may lie in another file: the graph cannot be read: {error}"
    else:
        if external is None:
            return
        what = f"the tensor {external[:100]!r} lies in another file"
    raise TrialError(
        FailureKind.UNUSABLE,
        what,
        remedy="export the model as one file: onnx.save(…, save_as_external_data=False)",
    )


def unbounded_part(file: OnnxFile) -> str | None:
    """As :func:`why_unbounded`, of a file that was read already."""
    if file.functions:
        return "it defines functions"
    if len(file.nodes) > MAX_NODES:
        return f"it has more than {MAX_NODES} nodes"
    known = _Known(file)
    for node in file.nodes:
        reason = known.reason(node)
        if reason is not None:
            return reason
        known.follow(node)
    return None


class _Known:
    """Origin and element type of each tensor, in the order of the nodes."""

    def __init__(self, file: OnnxFile) -> None:
        self._origins = dict.fromkeys(file.inputs, Origin.DATA)
        self._origins |= dict.fromkeys(file.constants, Origin.CONSTANT)
        self._types = file.inputs | file.constants

    def _origin(self, name: str) -> Origin:
        # A name nobody has made yet: the nodes are out of order, so nothing is known of it.
        return self._origins.get(name, Origin.DATA) if name else Origin.CONSTANT

    def _highest(self, names: list[str]) -> Origin:
        return max(map(self._origin, names), default=Origin.CONSTANT)

    def reason(self, node: Node) -> str | None:
        """Why this node makes the graph unbounded."""
        name = f"{node.domain}:{node.op}" if node.domain not in _STANDARD else node.op
        if node.domain not in _STANDARD:
            known = node.op in _DOMAINS.get(node.domain, ())
            return None if known else f"{name} is not known to be bounded"
        if node.op in {"Div", "Mod"}:
            return self._division(node)
        if node.op in {"Cast", "CastLike"}:
            return f"{name} to text" if self._type(node) == _STRING else None
        if node.op in _WITHOUT_DATA:
            data = self._highest(node.inputs) is Origin.DATA
            return f"{name} of data" if data else None
        if node.op in _SHAPED_BY:
            shaping = [node.inputs[i] for i in _SHAPED_BY[node.op] if i < len(node.inputs)]
            data = self._highest(shaping) is Origin.DATA
            return f"the shape of {name} depends on data" if data else None
        return None if node.op in _BOUNDED else f"{name} is not known to be bounded"

    def _division(self, node: Node) -> str | None:
        """Integers divided by what is not constant: 0, or the least number by -1, ends a process.

        Of data even by a constant, which may be -1.
        """
        if any(self._types.get(name) in _FLOATS for name in node.inputs):
            return None
        if self._highest(node.inputs[1:]) is Origin.CONSTANT:
            return f"{node.op} of integer data" if self._data_among(node) else None
        return f"{node.op} of integers by what is not constant"

    def _data_among(self, node: Node) -> bool:
        return self._highest(node.inputs) is Origin.DATA

    def _type(self, node: Node) -> int:
        if node.op in _TYPE_OF_OUTPUT:
            return _TYPE_OF_OUTPUT[node.op]
        if node.op == "Cast":
            return node.attribute_dtype("to")
        if node.op == "Constant":
            return node.attribute_dtype("value") or _type_of_constant(node)
        if node.op == "ConstantOfShape":
            return node.attribute_dtype("value") or _FLOAT
        if node.op == "EyeLike" and (dtype := node.attribute_dtype("dtype")):
            return dtype
        place = _TYPE_OF_INPUT.get(node.op, 0)
        return self._types.get(node.inputs[place], 0) if place < len(node.inputs) else 0

    def follow(self, node: Node) -> None:
        """Note what its outputs are."""
        origin = self._highest(node.inputs)
        if node.op in {"Shape", "Size"} and node.domain in _STANDARD:
            origin = min(origin, Origin.SHAPE)
        dtype = self._type(node) if node.domain in _STANDARD else 0
        for place, name in enumerate(node.outputs):
            self._origins[name] = origin
            self._types[name] = _INT64 if place and node.op in _SECOND_IS_INDEX else dtype


def _type_of_constant(node: Node) -> int:
    """``Constant`` with a bare number or list instead of a tensor."""
    names = node.attribute_names()
    return _FLOAT if any(name.startswith("value_float") for name in names) else 0
