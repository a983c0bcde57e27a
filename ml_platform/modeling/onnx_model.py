"""The ONNX model: a fitted pipeline written so that single precision answers as double precision does."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.impute import SimpleImputer
from sklearn.neighbors._base import NeighborsBase
from sklearn.preprocessing import KBinsDiscretizer

from ml_platform.modeling.columns import DTYPES, Kind
from ml_platform.modeling.engine import MISSING_TEXT, NUMBERS, TEXTS
from ml_platform.modeling.spec import Task

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""The newest in which a Split needs no widths; a converted model declares an older one when that is enough for it."""
MOST_NODES = 1_000_000
"""Trees with more nodes than this would take the converter minutes, and gigabytes."""
NO_TEXT = "\u2205 no text"

Kinds = Sequence[tuple[str, Kind]]


class NotConvertibleError(ValueError):
    """The pipeline cannot be converted, or the converted one answers differently; the message says which."""


@dataclass(frozen=True)
class _Tree:
    """A fitted tree's nodes, sharing its memory; `missing_left` is true where a missing number goes left."""

    thresholds: NDArray[np.float64]
    missing_left: NDArray[np.uint8]


def as_onnx(pipeline: Any, task: Task, kinds: Kinds) -> bytes:
    """The pipeline as an ONNX file with one matrix of numbers and one of texts as inputs; the same for the same model.

    The only output is what `Predictions` calls scores, before the negative class of a binary model is dropped.

    Raises:
        NotConvertibleError: when the converter refuses.
    """
    from skl2onnx import convert_sklearn  # noqa: PLC0415 - a second to import, and only training needs it
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: PLC0415 - as above

    _refuse_the_costly(pipeline)
    types = {Kind.NUMBER: FloatTensorType, Kind.TEXT: StringTensorType}
    takes_matrix = _takes_matrix(pipeline, kinds)
    each = [(name, types[kind]([None, 1])) for name, kind in kinds]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact = _made_exact(pipeline)
            model = convert_sklearn(
                exact,
                name="model",
                initial_types=[(NUMBERS, FloatTensorType([None, len(kinds)]))] if takes_matrix else each,
                options=None if task is Task.REGRESSION else {id(exact): {"zipmap": False}},
                target_opset=OPSETS,
            )
        _send_missing(model.graph, exact)
        if takes_matrix:
            _name_matrix(model.graph)
        else:
            _take_matrices(model.graph, kinds)
        # A label would only be computed to be thrown away: it follows from the scores.
        del model.graph.output[:-1]
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as error:
        msg = f"the converter refuses it ({type(error).__name__}): {' '.join(str(error).split())[:300]}"
        raise NotConvertibleError(msg) from error


def _takes_matrix(pipeline: Any, kinds: Kinds) -> bool:
    """Whether it asks for no column by name; the converter gives one column each only to what does."""
    return all(kind is Kind.NUMBER for _, kind in kinds) and not any(
        isinstance(part, ColumnTransformer) for part in _parts(pipeline)
    )


def _refuse_the_costly(pipeline: Any) -> None:
    if any(isinstance(part, NeighborsBase) for part in _parts(pipeline)):
        msg = "ONNX Runtime would compare every row with all rows trained on, where scikit-learn keeps them in a tree"
        raise NotConvertibleError(msg)
    nodes = sum(len(tree.thresholds) for tree in _trees(pipeline))
    if nodes > MOST_NODES:
        msg = f"its trees have {nodes:,} nodes, more than {MOST_NODES:,}; limit max_depth or raise min_samples_leaf"
        raise NotConvertibleError(msg)


def _made_exact(pipeline: Any) -> Any:
    """A copy whose answers in single precision are those of the pipeline in double precision.

    A threshold is rounded down to single precision: for a single-precision value x, `x <= threshold` stays as it was.
    A missing text is given the name that the engine calls it by. No part is asked for what the converter cannot write
    but the answers do not need.
    """
    exact = copy.deepcopy(pipeline)
    for tree in _trees(exact):
        tree.thresholds[:] = rounded_down(tree.thresholds)
    for part in _parts(exact):
        _prepare(part)
    return exact


def _prepare(part: Any) -> None:
    """Make one estimator of the copy exact, and acceptable to the converter."""
    fills = getattr(part, "statistics_", np.empty(0))
    for values in (*getattr(part, "categories_", ()), fills):
        if values.dtype == DTYPES[Kind.TEXT]:
            values[[value is None for value in values]] = MISSING_TEXT
    if isinstance(part, SimpleImputer) and getattr(part, "_fit_dtype", None) == DTYPES[Kind.TEXT]:
        # To scikit-learn None is not NaN: an imputer left at its default fills no missing text.
        part.missing_values = MISSING_TEXT if part.missing_values is None else NO_TEXT
    if isinstance(part, KBinsDiscretizer) and hasattr(part, "bin_edges_"):
        # A bin begins at its edge, so here it is `x < edge` that has to stay as it was.
        for edges in part.bin_edges_:
            edges[:] = -rounded_down(-edges)
        part.encode = "onehot-dense" if part.encode == "onehot" else part.encode
    if isinstance(part, VotingClassifier):
        part.flatten_transform = False  # means nothing to predictions, but the converter refuses it


def rounded_down(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest single-precision value that is not above each value."""
    with np.errstate(over="ignore", under="ignore"):
        nearest = values.astype(np.float32)
        below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > values, below, nearest).astype(np.float64)


def _trees(pipeline: Any) -> Iterator[_Tree]:
    """Every fitted tree, in the order in which the converter writes them."""
    for part in _parts(pipeline):
        if isinstance(part, BaseHistGradientBoosting):
            for predictor in (p for iteration in getattr(part, "_predictors", ()) for p in iteration):
                yield _Tree(predictor.nodes["num_threshold"], predictor.nodes["missing_go_to_left"])
        elif hasattr(part, "tree_"):
            yield _Tree(part.tree_.threshold, part.tree_.missing_go_to_left)


def _parts(estimator: object) -> Iterator[Any]:
    """The estimator and everything of scikit-learn's in it, each once."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if isinstance(part, np.ndarray) and part.dtype == object:
            part = part.ravel().tolist()
        if type(part).__module__.startswith("sklearn.") and hasattr(part, "__dict__"):
            if id(part) in seen:
                continue
            seen.add(id(part))
            yield part
            part = vars(part)
        inside = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
        waiting.extend(reversed(list(inside)))


def _send_missing(graph: Any, exact: Any) -> None:
    """Say of every tree where missing numbers go, which the converter does for histogram gradient boosting only."""
    left = np.concatenate([np.empty(0, dtype=np.uint8), *(tree.missing_left for tree in _trees(exact))])
    written = [a.ints for node in graph.node for a in node.attribute if a.name == "nodes_missing_value_tracks_true"]
    if sum(len(nodes) for nodes in written) != len(left):
        return  # some trees are not asked for answers, and which is unknown; the proof decides
    start = 0
    for nodes in written:
        nodes[:] = left[start : start + len(nodes)].tolist()
        start += len(nodes)


def _name_matrix(graph: Any) -> None:
    """Its one input is called as the engine calls it, whatever the converter made of the name."""
    (given,) = graph.input
    graph.node.insert(0, helper.make_node("Identity", [NUMBERS], [f"{NUMBERS} as given"]))
    for node in graph.node[1:]:
        node.input[:] = [f"{NUMBERS} as given" if name == given.name else name for name in node.input]
    given.name = NUMBERS


def _take_matrices(graph: Any, kinds: Kinds) -> None:
    """One input per kind instead of one per feature: naming each costs more than the model itself."""
    # The converter renames a feature that is called as something of its own, `label` for one, but keeps the order.
    given = [(value.name, kind) for value, (_, kind) in zip(graph.input, kinds, strict=True)]
    del graph.input[:]
    element = {NUMBERS: TensorProto.FLOAT, TEXTS: TensorProto.STRING}
    for matrix, kind in ((TEXTS, Kind.TEXT), (NUMBERS, Kind.NUMBER)):
        names = [name for name, of_kind in given if of_kind is kind]
        if names:
            graph.input.append(helper.make_tensor_value_info(matrix, element[matrix], [None, len(names)]))
            graph.node.insert(0, helper.make_node("Split", [matrix], names, axis=1))
