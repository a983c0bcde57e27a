"""The pages of one live model in the OpenAPI document: what it takes and answers, in each protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from ml_platform.modeling.promotion import Colour
from ml_platform.serving.lane import Lane
from ml_platform.serving.open_inference import Output, as_tensors, datatypes, outputs
from ml_platform.serving.openapi.fields import field_schema, prediction_schema, row_schema
from ml_platform.serving.openapi.parts import (
    REQUEST_ID,
    Json,
    answer,
    array,
    body,
    curl,
    operation,
    parameter,
    record,
    reference,
)
from ml_platform.serving.protocols import MAX_ROWS

ROWS = {"minItems": 1, "maxItems": MAX_ROWS}
KEYS: Json = {
    "type": ["array", "null"],
    "items": {"type": ["string", "null"]},
    "description": "Whose each row is, for the prediction log: as many as rows",
}
TEXT: Json = {"type": "string"}
ID = parameter("x-request-id", "header", REQUEST_ID, "The request's id; without one it gets one", required=False)
FRAME_PARAMS: Json = record({"keys": KEYS}, optional=["keys"], closed=True)
NOT_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
REFUSALS = (HTTPStatus.BAD_REQUEST, *NOT_THERE)


@dataclass(frozen=True)
class ModelPages:
    """The pages of a lane's model; `base` is the server's address, `tokens` are those of which predictions need one."""

    lane: Lane
    base: str
    tokens: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.lane.release.model

    def components(self) -> Json:
        """The schemas that the pages refer to."""
        fields, manifest = self.lane.predictor.fields, self.lane.predictor.manifest
        return {
            f"{self.name}_row": row_schema(fields),
            f"{self.name}_frame_row": row_schema(fields, from_frame=True),
            f"{self.name}_prediction": prediction_schema(manifest),
            f"{self.name}_invocation": self._invocation(),
            f"{self.name}_inference": self._inference(),
        }

    def paths(self) -> Json:
        """The pages, by path."""
        own, v2 = f"/models/{self.name}", f"/v2/models/{self.name}"
        live = self.lane.release.version
        version = parameter("version", "path", {"enum": [live]}, "The live version")
        return {
            own: {"get": self._details()},
            f"{own}/predict": {"post": self._predict(f"{own}/predict")},
            f"{own}/colours/{{colour}}/predict": {"post": self._predict_of_a_colour()},
            f"{own}/invocations": {"post": self._invoke(f"{own}/invocations")},
            v2: {"get": self._metadata()},
            f"{v2}/ready": {"get": self._ready()},
            f"{v2}/infer": {"post": self._infer(f"{v2}/infer")},
            f"{v2}/versions/{{version}}": {"get": self._metadata(version)},
            f"{v2}/versions/{{version}}/ready": {"get": self._ready(version)},
            f"{v2}/versions/{{version}}/infer": {"post": self._infer(f"{v2}/versions/{live}/infer", version)},
        }

    def invocations(self) -> Json:
        """Bodies of MLflow's protocol, by what they are an example of."""
        row = self.lane.predictor.golden.rows[0]
        split = {"columns": list(row), "data": [list(row.values())]}
        return {"records": {"dataframe_records": [row]}, "split": {"dataframe_split": split}}

    def _predict(self, path: str) -> Json:
        example = {"rows": [self.lane.predictor.golden.rows[0]]}
        return operation(
            self.name,
            "Predictions for rows",
            self._predictions("The predictions, in the order of the rows"),
            *REFUSALS,
            description=curl(f"{self.base}{path}", example),
            parameters=[ID],
            takes=self._named_rows(),
            tokens=self.tokens,
        )

    def _predict_of_a_colour(self) -> Json:
        colour = parameter("colour", "path", {"enum": list(Colour)}, "Where the release is loaded")
        return operation(
            self.name,
            "Predictions of a release before it is live, for the platform",
            self._predictions("The predictions; none of this is logged"),
            *REFUSALS,
            parameters=[colour, ID],
            takes=self._named_rows(),
            tokens=["platform"],
        )

    def _invoke(self, path: str) -> Json:
        examples = self.invocations()
        return operation(
            self.name,
            "MLflow's scoring protocol",
            answer("The predictions", self.invoked(), headers=headers(self.lane)),
            *REFUSALS,
            description=curl(f"{self.base}{path}", examples["records"]),
            parameters=[ID],
            takes=body(reference(f"{self.name}_invocation"), examples),
            tokens=self.tokens,
        )

    def invoked(self) -> Json:
        """What an invocation is answered with."""
        return record({"predictions": array(reference(f"{self.name}_prediction"), **ROWS)})

    def _infer(self, path: str, *version: Json) -> Json:
        example = {"inputs": as_tensors(self.lane.predictor.golden.rows[0], self.lane.predictor.fields)}
        inferred = record(
            {
                "model_name": {"const": self.name},
                "model_version": TEXT,
                "id": TEXT,
                "outputs": array({"anyOf": [_answered(output) for output in outputs(self.lane)]}, minItems=1),
            }
        )
        return operation(
            self.name,
            "Open Inference Protocol: inference",
            answer("The outputs", inferred, headers=headers(self.lane)),
            *REFUSALS,
            description=curl(f"{self.base}{path}", example),
            parameters=[*version, ID],
            takes=body(reference(f"{self.name}_inference"), {"one row": example}),
            tokens=self.tokens,
        )

    def _metadata(self, *version: Json) -> Json:
        tensors = array(record({"name": TEXT, "datatype": TEXT, "shape": array({"type": "integer"})}))
        schema = record(
            {"name": TEXT, "versions": array(TEXT), "platform": TEXT, "inputs": tensors, "outputs": tensors}
        )
        said = answer("Inputs and outputs", schema)
        return operation(self.name, "Open Inference Protocol: metadata", said, *NOT_THERE, parameters=version)

    def _ready(self, *version: Json) -> Json:
        said = answer("It is", record({"name": TEXT, "ready": {"const": True}}))
        summary = "Open Inference Protocol: whether the model is ready"
        return operation(self.name, summary, said, *NOT_THERE, parameters=version)

    def _details(self) -> Json:
        schema = record(
            {
                "name": TEXT,
                "colour": {"enum": list(Colour)},
                "release": reference("Release"),
                "engine": TEXT,
                "fields": array(reference("Field")),
                "example": reference(f"{self.name}_row"),
            }
        )
        said = answer("What is live", schema)
        return operation(self.name, "The live release, its fields with their rules, and an example", said, *NOT_THERE)

    def _predictions(self, description: str) -> Json:
        schema = record(
            {
                "model": {"const": self.name},
                "version": TEXT,
                "colour": {"enum": list(Colour)},
                "request_id": TEXT,
                "predictions": array(reference(f"{self.name}_prediction"), **ROWS),
            }
        )
        return answer(description, schema, headers=headers(self.lane))

    def _named_rows(self) -> Json:
        rows = array(reference(f"{self.name}_row"), **ROWS)
        schema = record({"rows": rows, "keys": KEYS}, optional=["keys"], closed=True)
        return body(schema, {"one row": {"rows": [self.lane.predictor.golden.rows[0]]}})

    def _invocation(self) -> Json:
        rows = array(reference(f"{self.name}_frame_row"), **ROWS)
        names = {"enum": [field.name for field in self.lane.predictor.fields]}
        split = {
            "columns": {**array(names), "uniqueItems": True},
            "data": array({"type": "array"}, **ROWS),
            "index": {"type": "array"},
        }
        columns = {
            field.name: array(field_schema(field, from_frame=True), **ROWS) for field in self.lane.predictor.fields
        }
        gaps = [field.name for field in self.lane.predictor.fields if field.nullable]
        forms: dict[str, Json] = {
            "dataframe_records": rows,
            "dataframe_split": record(split, optional=["index"], closed=True),
            "instances": rows,
            "inputs": {"anyOf": [rows, record(columns, optional=gaps, closed=True)]},
        }
        return {
            "oneOf": [
                record({form: schema, "params": FRAME_PARAMS}, optional=["params"], closed=True)
                for form, schema in forms.items()
            ]
        }

    def _inference(self) -> Json:
        tensors = [
            record(
                {
                    "name": {"const": field.name},
                    "shape": {
                        **array({"type": "integer", "minimum": 1}, minItems=1, maxItems=2),
                        "description": "`[n]` or `[n, 1]`, with the same n for all inputs",
                    },
                    "datatype": {"enum": list(datatypes(field))},
                    "data": array(field_schema(field, from_frame=True), **ROWS),
                    "parameters": {"type": "object"},
                },
                optional=["parameters"],
            )
            for field in self.lane.predictor.fields
        ]
        wanted = record({"name": {"enum": [output.name for output in outputs(self.lane)]}})
        return record(
            {
                "inputs": {
                    **array({"anyOf": tensors}, minItems=1),
                    "description": "One tensor per field; those of nullable fields may be left out",
                },
                "outputs": array(wanted),
                "parameters": record({"keys": KEYS}, optional=["keys"]),
                "id": REQUEST_ID,
            },
            optional=["outputs", "parameters", "id"],
        )


def headers(lane: Lane | None = None) -> Json:
    """What every prediction is sent with."""
    version = {"schema": TEXT, "example": lane.release.version} if lane else {"schema": TEXT}
    return {
        "x-model-version": {**version, "required": True, "description": "The version that answered"},
        "x-model-colour": {"schema": {"enum": list(Colour)}, "required": True, "description": "Where it is loaded"},
        "x-request-id": {"schema": TEXT, "required": True, "description": "The request's id in the prediction log"},
    }


def _answered(output: Output) -> Json:
    tensor: dict[str, Json] = {
        "name": {"const": output.name},
        "datatype": {"const": output.datatype},
        "shape": array({"type": "integer"}),
        "data": {"type": "array"},
    }
    if output.classes:
        tensor["parameters"] = record({"classes": {"const": list(output.classes)}})
    return record(tensor)
