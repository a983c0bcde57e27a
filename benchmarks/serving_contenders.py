"""What people would write instead of our model server, and the bare limit of any server in Python.

    python -m benchmarks.serving_contenders fastapi|limit FOLDER PORT

`fastapi` is a scikit-learn pipeline behind FastAPI, as written by hand: a Pydantic model of the row, a DataFrame, the
pipeline. `limit` is a bare ASGI application with msgspec and ONNX Runtime around the same trees: it validates, logs and
measures nothing, and computes no features but feeds the request's numbers as they are.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.engine import NUMBERS, TEXTS
from ml_platform.modeling.schema import Field

FIELDS, PIPELINE, MODEL = "fields.json", "pipeline.pkl", "model.onnx"


class Features:
    """The features of features.py on a DataFrame, as the first step of a pipeline would compute them."""

    def __init__(self, model: str) -> None:
        """Remember whose features."""
        self.model = model

    def __call__(self, frame: Any) -> Any:
        """A DataFrame of features for a DataFrame of rows."""
        import pandas as pd  # noqa: PLC0415 - the limit does without

        from ml_platform.modeling.training import ModelCode  # noqa: PLC0415 - as above
        from ml_platform.models.catalogue import model  # noqa: PLC0415 - as above

        if not hasattr(self, "_features"):
            self._features = ModelCode.of(model(self.model)).features
        columns = {
            name: frame[name].to_numpy(object if frame[name].dtype == object else np.float64)
            for name in self._features.columns
        }
        return pd.DataFrame(self._features.compute(columns))


def read_fields(folder: Path) -> tuple[Field, ...]:
    """The source columns of a request."""
    return msgspec.json.decode((folder / FIELDS).read_bytes(), type=tuple[Field, ...])


def fastapi(folder: Path) -> Any:
    """The application as people write it."""
    import pickle  # noqa: PLC0415 - each contender imports what it needs

    import pandas as pd  # noqa: PLC0415
    from fastapi import FastAPI  # noqa: PLC0415
    from pydantic import create_model  # noqa: PLC0415

    pipeline = pickle.loads((folder / PIPELINE).read_bytes())
    types: dict[str, Any] = {f.name: (str if f.kind is Kind.TEXT else float | None, ...) for f in read_fields(folder)}
    row = create_model("Row", **types)
    request = create_model("Request", rows=(list[row], ...))  # type: ignore[valid-type]
    app = FastAPI()

    @app.post("/predict")
    def predict(request: request) -> dict[str, Any]:  # type: ignore[valid-type]
        frame = pd.DataFrame([row.model_dump() for row in request.rows])  # type: ignore[attr-defined]
        return {"predictions": pipeline.predict_proba(frame)[:, 1].tolist()}

    return app


def limit(folder: Path) -> Any:
    """The application that does nothing but decode, run the model and encode."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession((folder / MODEL).read_bytes(), options, providers=["CPUExecutionProvider"])
    widths = {i.name: i.shape[1] for i in session.get_inputs()}
    members = [(f"f{i}", Any if f.kind is Kind.TEXT else float | None) for i, f in enumerate(read_fields(folder))]
    names = {f"f{i}": f.name for i, f in enumerate(read_fields(folder))}
    row = msgspec.defstruct("Row", members, rename=names, gc=False)
    request = msgspec.json.Decoder(msgspec.defstruct("Request", [("rows", list[row])]))  # type: ignore[valid-type]
    output = [session.get_outputs()[-1].name]

    def feed(rows: list[Any]) -> Mapping[str, Any]:
        values = np.array([msgspec.structs.astuple(row) for row in rows], dtype=np.float32)
        fed: dict[str, Any] = {NUMBERS: np.ascontiguousarray(values[:, : widths[NUMBERS]])}
        if TEXTS in widths:
            fed[TEXTS] = np.full((len(rows), widths[TEXTS]), "one family", dtype=object)
        return fed

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's signature
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        rows = request.decode(body).rows  # type: ignore[attr-defined]  # made at run time
        (found,) = session.run(output, feed(rows))
        data = msgspec.json.encode({"predictions": found[:, 1].tolist()})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


def main() -> None:
    """Serve one of them."""
    which, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    app = {"fastapi": fastapi, "limit": limit}[which](folder)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main()
