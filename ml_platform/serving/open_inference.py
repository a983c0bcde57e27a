"""Open Inference Protocol, version 2: tensors by name, as KServe, Triton and their clients speak it, in JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, get_args

import msgspec

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.engine import EngineKind
from ml_platform.modeling.schema import Field
from ml_platform.modeling.spec import Task
from ml_platform.serving.http import Refusal
from ml_platform.serving.lane import Answer, Lane
from ml_platform.serving.protocols import Asked, as_json, as_rows, check_count, decode_pythons

Whole = Literal["INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"]
Real = Literal["FP64", "FP32", "FP16"]
Datatype = Whole | Real | Literal["BOOL", "BYTES"]
WHOLE, REAL = get_args(Whole), get_args(Real)
ELEMENTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(WHOLE, (int,)),
    **dict.fromkeys(REAL, (float, int)),
    "BOOL": (bool,),
    "BYTES": (str,),
}
"""What JSON has for an element of each datatype."""
PLATFORMS = {EngineKind.ONNX: "onnxruntime_onnx", EngineKind.SKOPS: "sklearn_skops"}
BINARY_HEADER = b"inference-header-content-length"
NO_BINARY = (
    "the binary tensor data extension is not supported: send the values as JSON (tritonclient: binary_data=False)"
)
UNPROCESSABLE = HTTPStatus.UNPROCESSABLE_ENTITY


class Tensor(msgspec.Struct, kw_only=True):
    """The values of one field."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any] = []
    parameters: dict[str, Any] = {}

    def values(self, field: Field) -> list[Any]:
        """The n values, held against shape and datatype.

        Raises:
            Refusal: when they are something else.
        """
        where = f"input {self.name!r}"
        if "binary_data_size" in self.parameters:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{where}: {NO_BINARY}")
        if self.datatype not in datatypes(field):
            fitting = ", ".join(datatypes(field))
            raise Refusal(UNPROCESSABLE, f"{where}: datatype {self.datatype} does not fit, but {fitting} would")
        if not self.shape or self.shape[1:] not in ([], [1]):
            raise Refusal(UNPROCESSABLE, f"{where}: shape {self.shape} is neither [n] nor [n, 1]")
        values = [value for part in self.data for value in (part if isinstance(part, list) else (part,))]
        if len(values) != self.shape[0]:
            raise Refusal(UNPROCESSABLE, f"{where}: shape {self.shape}, but {len(values)} values")
        for i, value in enumerate(values):
            if value is not None and type(value) not in ELEMENTS[self.datatype]:
                raise Refusal(UNPROCESSABLE, f"{where}, value {i}: {value!r:.80} is not {self.datatype}")
        return values


class RequestedOutput(msgspec.Struct, kw_only=True):
    """A part of the answer. Whether it shall be binary is only a wish: every client reads JSON."""

    name: str


class Parameters(msgspec.Struct, kw_only=True):
    """What goes with the tensors: whose the rows are, for the prediction log. Others are for other servers."""

    keys: list[str | None] | None = None


class InferenceRequest(msgspec.Struct, kw_only=True):
    """The body of an inference request."""

    inputs: list[Tensor]
    outputs: list[RequestedOutput] = []
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    id: str = ""


@dataclass(frozen=True)
class Output:
    """A part of the answer as a tensor; `classes` are the names of its columns, if it has any."""

    name: str
    datatype: str
    classes: tuple[str, ...] = ()

    def metadata(self, rows: int = -1) -> dict[str, Any]:
        """Name, datatype and shape; -1 stands for any number of rows."""
        shape = [rows, len(self.classes)] if self.classes else [rows]
        return {"name": self.name, "datatype": self.datatype, "shape": shape}

    def tensor(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The part of n predictions."""
        found = [prediction[self.name] for prediction in predictions]
        if not self.classes:
            return {**self.metadata(len(found)), "data": found}
        flat = [probability for row in found for probability in row.values()]
        return {**self.metadata(len(found)), "parameters": {"classes": self.classes}, "data": flat}


@dataclass(frozen=True)
class OpenInference:
    """Inference requests for a version, or for whichever is live."""

    version: str | None = None

    def read(self, body: bytes, lane: Lane) -> Asked:
        """What the body asks for.

        Raises:
            Refusal: when it is not what the protocol says, or for a version that is not live.
        """
        check_version(lane, self.version)
        asked = decode_pythons(body, InferenceRequest)
        rows = as_rows(_columns(asked.inputs, lane.predictor.fields))
        check_count(len(rows), asked.parameters.keys)
        wanted = [output.name for output in asked.outputs]
        there = [output.name for output in outputs(lane)]
        if not set(wanted) <= set(there):
            raise Refusal(UNPROCESSABLE, f"outputs {wanted}: there are only {', '.join(there)}")
        return Asked(as_json(rows, lane.predictor.fields), asked.parameters.keys or (), asked.id, wanted)

    def write(self, lane: Lane, asked: Asked, request_id: str, answer: Answer) -> bytes:
        """The body of the answer."""
        wanted = [output for output in outputs(lane) if not asked.outputs or output.name in asked.outputs]
        return msgspec.json.encode(
            {
                "model_name": lane.release.model,
                "model_version": lane.release.version,
                "id": request_id,
                "outputs": [output.tensor(answer.predictions) for output in wanted],
            }
        )


def check_version(lane: Lane, version: str | None) -> None:
    """Hold the version that is asked for against the live one.

    Raises:
        Refusal: when it is another.
    """
    live = lane.release.version
    if version not in (None, live):
        msg = f"model {lane.release.model!r}: version {version!r} is not live, version {live!r} is"
        raise Refusal(HTTPStatus.NOT_FOUND, msg)


def check_is_json(headers: Mapping[bytes, bytes]) -> None:
    """Hold the headers against the extension that this server does not have.

    Raises:
        Refusal: when binary data follows the JSON.
    """
    if BINARY_HEADER in headers:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, NO_BINARY)


def metadata(lane: Lane) -> dict[str, Any]:
    """What the model takes and answers."""
    return {
        "name": lane.release.model,
        "versions": [lane.release.version],
        "platform": PLATFORMS[lane.predictor.manifest.engine],
        "inputs": [{"name": f.name, "datatype": datatypes(f)[0], "shape": [-1]} for f in lane.predictor.fields],
        "outputs": [output.metadata() for output in outputs(lane)],
    }


def outputs(lane: Lane) -> list[Output]:
    """The parts of the model's answer."""
    manifest = lane.predictor.manifest
    if manifest.task is Task.REGRESSION:
        return [Output("value", "FP64")]
    label = Output("label", _datatype_of(manifest.classes[0]))
    if manifest.task is Task.BINARY:
        return [label, Output("probability", "FP64")]
    return [label, Output("probabilities", "FP64", tuple(str(name) for name in manifest.classes))]


def datatypes(field: Field) -> tuple[str, ...]:
    """What a tensor of the field may be; the first is the best: a gap needs NaN, which only floats have in NumPy."""
    if field.kind is not Kind.NUMBER:
        return ("BYTES",)
    flag = ("BOOL",) if field.dtype == "bool" else ()
    if field.nullable or not (flag or field.is_whole):
        return (*REAL, *WHOLE, *flag)
    return (*flag, *WHOLE, *REAL)


def as_tensors(row: Mapping[str, Any], fields: Sequence[Field]) -> list[dict[str, Any]]:
    """A row as a client would send it; what is missing is left out."""
    there = [field for field in fields if row.get(field.name) is not None]
    return [
        {"name": field.name, "shape": [1], "datatype": _best(field, row[field.name]), "data": [row[field.name]]}
        for field in there
    ]


def _best(field: Field, value: Any) -> str:
    return "BOOL" if isinstance(value, bool) else datatypes(field)[0]


def _columns(tensors: Sequence[Tensor], fields: Sequence[Field]) -> dict[str, list[Any]]:
    known = {field.name: field for field in fields}
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        if tensor.name not in known:
            raise Refusal(UNPROCESSABLE, f"no input {tensor.name!r}; there are {', '.join(known)}")
        if tensor.name in columns:
            raise Refusal(UNPROCESSABLE, f"input {tensor.name!r} is there twice")
        columns[tensor.name] = tensor.values(known[tensor.name])
    return columns


def _datatype_of(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOL"
    return "INT64" if isinstance(value, int) else "FP64" if isinstance(value, float) else "BYTES"
