"""The gate: who wins in which way, how often by luck, what breaks a guardrail, and which policies are refused."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml_platform.modeling import bootstrap
from ml_platform.modeling.bootstrap import paired
from ml_platform.modeling.gate import MIN_ROWS, Champion, Decision, Way, decide
from ml_platform.modeling.guardrails import UNNOTICED_MS, Contender, Holdout, check
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.scoring import score
from ml_platform.modeling.spec import METRICS, Direction, ModelSpec, PostgresTable, PromotionPolicy, SpecError, Task
from ml_platform.modeling.weighted_metrics import calibration_error, metric
from ml_platform_tests.modeling.contenders import labels, predictions

ALL = [(task, name) for task, names in METRICS.items() for name in names]
SEEDS = st.integers(0, 2**32 - 1)
YOUNG, OLD = timedelta(days=1), timedelta(days=29)
SOUND = {
    "name": "small",
    "owner": "team:tests",
    "purpose": "Tests.",
    "source": PostgresTable("rows", key="id"),
    "label": "label",
    "task": Task.BINARY,
    "promotion": PromotionPolicy(metric="roc_auc", floor=0.6),
}


def _spec(task: Task = Task.BINARY, metric: str = "roc_auc", **promotion: object) -> ModelSpec:
    floor = 0.0 if METRICS[task][metric] is Direction.UP else 1e9
    policy = PromotionPolicy(metric=metric, **{"floor": floor} | promotion)  # type: ignore[arg-type]
    return ModelSpec(**SOUND | {"task": task, "promotion": policy})  # type: ignore[arg-type]


def _contender(predicted: Predictions, row_ms: float = 0.1, bundle_mib: float = 1.0) -> Contender:
    return Contender(predicted=predicted, row_ms=row_ms, bundle_mib=bundle_mib)


def _champion(predicted: Predictions, age: timedelta = YOUNG, row_ms: float = 0.1) -> Champion:
    return Champion(version="3", age=age, contender=_contender(predicted, row_ms))


def _duel(
    spec: ModelSpec,
    noises: tuple[float, float],
    *,
    rows: int = 400,
    seed: int = 0,
    age: timedelta = YOUNG,
    logs_otherwise: bool = False,
) -> Decision:
    """A challenger and a champion of so much noise, that err together about as much as two trainings do."""
    rng = np.random.default_rng(seed)
    actual, luck = labels(spec.task, rows, rng), rng.normal(size=rows)
    challenger, champion = (predictions(spec.task, actual, noise, rng, luck) for noise in noises)
    holdout = Holdout(actual=actual, slices={})
    return decide(spec, holdout, _contender(challenger), _champion(champion, age=age), logs_otherwise=logs_otherwise)


# What is measured.


@pytest.mark.parametrize(("task", "name"), ALL)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(6, 80))
def test_a_metric_of_drawn_rows_is_that_of_a_holdout_of_these_rows(task: Task, name: str, seed: int, n: int) -> None:
    """As scikit-learn measures it, ties included; NaN exactly where it has no value."""
    rng = np.random.default_rng(seed)
    actual = labels(task, n, rng)
    predicted = predictions(task, actual, 1.5, rng)
    rows = np.sort(rng.integers(0, n, n))
    counts = np.bincount(rows, minlength=n)[:, None].astype(float)

    (found,) = metric(name)(actual, predicted)(counts)

    expected = score(actual[rows], predicted.at(rows)).get(name, math.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_calibration_error_is_that_of_the_tenths(seed: int) -> None:
    """Computed by hand for a binary model; a model that says what happens has none."""
    rng = np.random.default_rng(seed)
    said = rng.random(200)
    actual = (rng.random(200) < said**2).astype(int)
    by_hand = sum(abs((actual[said // 0.1 == tenth] - said[said // 0.1 == tenth]).sum()) / 200 for tenth in range(10))

    found = bootstrap.value(calibration_error, actual, Predictions(task=Task.BINARY, scores=said, classes=(0, 1)))
    none = bootstrap.value(
        calibration_error, actual, Predictions(task=Task.BINARY, scores=actual.astype(float), classes=(0, 1))
    )

    assert found == pytest.approx(by_hand)
    assert none == 0


@pytest.mark.parametrize(
    ("task", "name"), [(Task.BINARY, "roc_auc"), (Task.MULTICLASS, "f1_macro"), (Task.REGRESSION, "mae")]
)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_the_interval_is_turned_round_when_the_models_change_places(task: Task, name: str, seed: int) -> None:
    """And a model that answers as the champion does gains exactly nothing."""
    rng = np.random.default_rng(seed)
    actual = labels(task, 120, rng)
    one, other = (predictions(task, actual, 1.0, rng) for _ in range(2))

    def gain(challenger: Predictions, champion: Predictions) -> NDArray[np.float64]:
        found = paired(metric(name), actual, challenger, champion, sign=1, confidence=0.9, seed=1)
        return np.array([found.low, found.estimate, found.high])

    np.testing.assert_allclose(gain(one, other), -gain(other, one)[::-1], atol=1e-12)
    np.testing.assert_array_equal(gain(one, one), 0)


@pytest.mark.parametrize(
    ("task", "name"), [(Task.BINARY, "log_loss"), (Task.MULTICLASS, "log_loss"), (Task.REGRESSION, "mae")]
)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, part=st.floats(0, 1))
def test_who_comes_closer_to_the_truth_in_every_row_does_no_worse(
    task: Task, name: str, seed: int, part: float
) -> None:
    """The whole interval moves up: a challenger that won does not lose by getting better."""
    rng = np.random.default_rng(seed)
    actual = labels(task, 60, rng)
    challenger, champion = (predictions(task, actual, 1.0, rng) for _ in range(2))
    truth = np.eye(3)[actual.astype(int)] if task is Task.MULTICLASS else actual.astype(float)
    closer = replace(challenger, scores=challenger.scores + part * (truth - challenger.scores))

    before, after = (
        paired(metric(name), actual, who, champion, sign=-1, confidence=0.95, seed=1) for who in (challenger, closer)
    )

    assert after.low >= before.low - 1e-9
    assert after.estimate >= before.estimate - 1e-9
    assert after.high >= before.high - 1e-9


def test_many_rows_cost_no_more_than_the_cap_and_make_the_interval_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread of all rows is derived from a sample: a quarter as wide for sixteen times the rows."""
    monkeypatch.setattr(bootstrap, "MAX_ROWS", 1_000)
    rng = np.random.default_rng(0)
    actual = labels(Task.REGRESSION, 16 * bootstrap.MAX_ROWS, rng)
    one, other = (predictions(Task.REGRESSION, actual, 1.0, rng) for _ in range(2))
    few = np.arange(bootstrap.MAX_ROWS)

    def width(rows: NDArray[np.intp]) -> float:
        found = paired(
            metric("mae"), actual[rows], one.at(rows), other.at(rows), sign=1, confidence=0.95, seed=1, most_rows=1_000
        )
        return found.high - found.low

    assert width(np.arange(len(actual))) == pytest.approx(width(few) / 4, rel=0.1)


# Who wins.


def test_the_first_model_must_only_reach_the_floor() -> None:
    """In both directions of a metric."""
    rng = np.random.default_rng(0)
    actual = labels(Task.BINARY, 400, rng)
    holdout, model = Holdout(actual=actual, slices={}), _contender(predictions(Task.BINARY, actual, 1.0, rng))

    first = decide(_spec(floor=0.7), holdout, model, None)

    assert first.way is Way.FIRST
    assert "meets the floor of 0.7000, and there is no champion yet" in first.reason
    assert decide(_spec(floor=0.99), holdout, model, None).reason.endswith("misses the floor of 0.9900")
    assert decide(_spec(metric="log_loss", floor=1.0), holdout, model, None).won
    assert not decide(_spec(metric="log_loss", floor=0.1), holdout, model, None).won


@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_clearly_better_model_wins_and_a_clearly_worse_one_never_does(task: Task, name: str) -> None:
    """With every metric, whichever way it improves; age does not help a worse one."""
    spec = _spec(task, name, max_calibration_drop=math.inf)

    assert _duel(spec, (0.3, 3.0)).way is Way.SUPERIORITY
    assert not _duel(spec, (3.0, 0.3), age=OLD, logs_otherwise=True).won


def test_the_floor_holds_for_the_better_model_too() -> None:
    """The best of two bad models does not go live."""
    assert "misses the floor" in _duel(_spec(floor=0.999), (0.3, 3.0)).reason


def test_the_improvement_asked_for_is_the_gains_own() -> None:
    """Beyond doubt better, but not by so much: the champion stays, and the reason has the numbers."""
    gain = _duel(_spec(), (0.3, 3.0)).gain
    assert gain is not None
    enough, too_much = gain.estimate - 1e-6, gain.estimate + 1e-6

    assert gain.low < enough
    assert _duel(_spec(min_improvement=enough), (0.3, 3.0)).way is Way.SUPERIORITY
    refused = _duel(_spec(min_improvement=too_much), (0.3, 3.0))
    assert not refused.won
    assert f"the champion's {refused.champion:.4f}, gain {gain}: not more than {too_much:g}" in refused.reason


def test_a_tie_keeps_a_young_champion_and_refreshes_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the margin; a margin that was not asked for is 0.02, or 5 % of an error."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    young, old = (_duel(_spec(), (1.0, 1.0), rows=5000, age=age) for age in (YOUNG, OLD))

    assert young.reason.endswith("not beyond doubt; the champion stays")
    assert old.way is Way.NON_INFERIORITY
    assert old.reason.endswith("as good within 0.02, and the champion is 29 days old")
    assert not _duel(_spec(max_age=None), (1.0, 1.0), rows=5000, age=OLD).won
    assert not _duel(_spec(margin=0.0001), (1.0, 1.0), rows=5000, age=OLD).won
    assert _duel(_spec(metric="log_loss"), (1.0, 1.0), rows=5000, age=OLD).way is Way.NON_INFERIORITY


def test_a_tie_goes_to_the_model_that_logs_as_agreed_now() -> None:
    """Otherwise a column would be logged until a better model comes along; a worse model does not win by it."""
    rng = np.random.default_rng(0)
    actual = labels(Task.BINARY, 400, rng)
    same, worse = predictions(Task.BINARY, actual, 1.0, rng), predictions(Task.BINARY, actual, 2.0, rng)
    holdout = Holdout(actual=actual, slices={})

    assert decide(_spec(), holdout, _contender(same), _champion(same), logs_otherwise=True).way is Way.PRIVACY
    assert not decide(_spec(), holdout, _contender(same), _champion(same)).won
    assert not decide(_spec(), holdout, _contender(worse), _champion(same), logs_otherwise=True).won


def test_a_champion_that_cannot_be_compared_with_is_no_crash_and_no_silent_win() -> None:
    """The floor decides, and so does what needs no champion; the reason says why."""
    rng = np.random.default_rng(0)
    actual = labels(Task.BINARY, 400, rng)
    holdout, model = Holdout(actual=actual, slices={}), _contender(predictions(Task.BINARY, actual, 1.0, rng))
    lost = Champion(version="3", age=YOUNG, contender=None, incomparable="its bundle is gone")

    won = decide(_spec(floor=0.7), holdout, model, lost)

    assert won.way is Way.UNOPPOSED
    assert won.reason.endswith("the champion, version 3, cannot be compared with: its bundle is gone")
    assert not decide(_spec(floor=0.99), holdout, model, lost).won
    assert not decide(_spec(floor=0.7), holdout, replace(model, bundle_mib=501), lost).won


@pytest.mark.parametrize(
    ("rows", "positive", "reason"),
    [(MIN_ROWS - 1, 20, "49 rows that nobody was trained on"), (1000, 9, "9 of 1000 rows"), (0, 0, "0 rows")],
)
def test_too_few_rows_judge_nobody(rows: int, positive: int, reason: str) -> None:
    """Not even the better model; of the rarer class, too."""
    actual = (np.arange(rows) < positive).astype(int)
    better = Predictions(task=Task.BINARY, scores=actual * 0.8 + 0.1, classes=(0, 1))
    worse = replace(better, scores=np.full(rows, 0.5))

    decision = decide(_spec(), Holdout(actual=actual, slices={}), _contender(better), _champion(worse))

    assert not decision.won
    assert decision.reason.startswith(reason)


# How often by luck, and how surely.


def _wins(
    monkeypatch: pytest.MonkeyPatch,
    noises: tuple[float, float],
    *,
    rows: int,
    age: timedelta = YOUNG,
    margin: float | None = None,
) -> float:
    """The share of 200 duels that the challenger wins."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    spec = _spec(max_calibration_drop=math.inf, margin=margin)
    return float(np.mean([_duel(spec, noises, rows=rows, seed=seed, age=age).won for seed in range(200)]))


@pytest.mark.parametrize("rows", [60, 400])
def test_equal_models_are_promoted_as_rarely_as_stated(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """(1 - confidence) / 2 = 2.5 %; of 200 draws at that rate, more than 14 come once in five thousand times."""
    assert _wins(monkeypatch, (1.0, 1.0), rows=rows) <= 0.07


def test_a_better_model_is_promoted_with_the_stated_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 0.06 AUC better on 400 rows: at least nine times in ten."""
    assert _wins(monkeypatch, (0.5, 1.5), rows=400) >= 0.9


def test_an_old_champion_is_refreshed_by_an_equal_model_and_not_by_a_worse_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 500 rows, within 0.06: nine times in ten."""
    assert _wins(monkeypatch, (1.0, 1.0), rows=500, age=OLD, margin=0.06) >= 0.85
    assert _wins(monkeypatch, (2.5, 1.0), rows=500, age=OLD, margin=0.06) <= 0.07


# Guardrails.


def _groups(drop: float, rows: int) -> tuple[Holdout, Predictions, Predictions]:
    """A challenger that is better in group 0 and, by chance `drop`, wrong in group 1."""
    rng = np.random.default_rng(3)
    actual = labels(Task.BINARY, rows, rng)
    group = (np.arange(rows) % 4 == 0).astype(float)
    champion = predictions(Task.BINARY, actual, 1.5, rng)
    challenger = predictions(Task.BINARY, actual, 0.2, rng)
    spoiled = (group == 1) & (rng.random(rows) < drop)
    scores = np.where(spoiled, 1 - challenger.scores, challenger.scores)
    return Holdout(actual=actual, slices={"group": group}), replace(challenger, scores=scores), champion


def test_a_slice_that_gets_worse_beyond_doubt_stops_the_better_model() -> None:
    """It is named with its numbers; where it is not worse, it does not."""
    spec = _spec(max_calibration_drop=math.inf)
    holdout, worse, champion = _groups(0.5, 2000)
    _, better, _ = _groups(0.0, 2000)

    stopped = decide(spec, holdout, _contender(worse), _champion(champion))

    assert stopped.gain is not None
    assert stopped.gain.low > 0
    assert not stopped.won
    assert "but guardrail slice group=1: 500 rows, roc_auc gain -" in stopped.reason
    assert decide(spec, holdout, _contender(better), _champion(champion)).way is Way.SUPERIORITY
    loose = _spec(max_calibration_drop=math.inf, max_slice_drop=math.inf)
    assert decide(loose, holdout, _contender(worse), _champion(champion)).won


def test_small_slices_do_not_stop_anybody_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten slices of forty rows that mean nothing, and equal models: all of them hold in 95 of 100 cases."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 600)
    broken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        actual, luck = labels(Task.BINARY, 400, rng), rng.normal(size=400)
        models = [_contender(predictions(Task.BINARY, actual, 1.0, rng, luck)) for _ in range(2)]
        holdout = Holdout(actual=actual, slices={"any": rng.integers(0, 10, 400).astype(float)})
        broken += not all(rail.holds for rail in check(_spec(), holdout, *models))

    assert broken <= 5


@pytest.mark.parametrize(("task", "name", "power"), [(Task.BINARY, "roc_auc", 6), (Task.MULTICLASS, "accuracy", 0.3)])
def test_a_model_that_orders_well_and_says_wrong_probabilities_is_stopped(task: Task, name: str, power: float) -> None:
    """A power of its probabilities leaves the order as it is; the champion knows only how many are in a class."""
    rng = np.random.default_rng(0)
    actual = labels(task, 1000, rng)
    good = predictions(task, actual, 0.3, rng)
    champion = replace(good, scores=np.full_like(good.scores, 1 / 2 if task is Task.BINARY else 1 / 3))
    scores = good.scores**power
    wrong = replace(good, scores=scores if task is Task.BINARY else scores / scores.sum(axis=1, keepdims=True))

    stopped = decide(_spec(task, name), Holdout(actual=actual, slices={}), _contender(wrong), _champion(champion))

    assert stopped.gain is not None
    assert stopped.gain.low > 0
    assert not stopped.won
    assert "but guardrail calibration: calibration error 0." in stopped.reason


def test_a_slow_model_is_stopped_unless_nobody_would_notice() -> None:
    """Three times as long as the champion; a few microseconds more do not matter, nor does a slow champion."""
    rng = np.random.default_rng(0)
    actual = labels(Task.BINARY, 1000, rng)
    good, bad = predictions(Task.BINARY, actual, 0.3, rng), predictions(Task.BINARY, actual, 3.0, rng)
    holdout, spec = Holdout(actual=actual, slices={}), _spec(max_calibration_drop=math.inf)

    def won(row_ms: float, champions: float) -> Decision:
        return decide(spec, holdout, _contender(good, row_ms), _champion(bad, row_ms=champions))

    assert won(UNNOTICED_MS * 0.9, 0.01).won
    assert won(29, 10).won
    assert "but guardrail latency: 31.00 ms for one row, the champion 10.00; at most 30.00" in won(31, 10).reason


# Policies.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Loan Approval"}, "model 'Loan Approval', field name: use lower-case letters"),
        ({"owner": "credit"}, "field owner: write 'team:NAME' or an e-mail"),
    ],
)
def test_a_wrong_spec_names_model_field_and_remedy(change: dict[str, object], message: str) -> None:
    """It fails when it is loaded, not when it runs."""
    with pytest.raises(SpecError, match=message):
        ModelSpec(**SOUND | change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "auc"}, "promotion.metric: for a binary model choose one of"),
        ({"floor": 65}, "promotion.floor: roc_auc is never above 1; give what a model must reach"),
        ({"metric": "log_loss", "floor": -1}, "promotion.floor: log_loss is never below 0"),
        ({"holdout": 2}, "promotion.holdout: give the share"),
        ({"min_improvement": -0.1}, "promotion.min_improvement: give 0 or more"),
        ({"confidence": 95}, "promotion.confidence: give 0.5 to 0.999"),
        ({"margin": -0.1}, "promotion.margin: give 0 or more"),
        ({"max_age": timedelta(0)}, "promotion.max_age: give a time"),
        ({"max_slice_drop": -1.0}, "promotion.max_slice_drop: give 0 or more"),
        ({"max_calibration_drop": math.nan}, "promotion.max_calibration_drop: give a share"),
        ({"max_latency_ratio": 0.5}, "promotion.max_latency_ratio: give 1 or more"),
        ({"max_bundle_mib": 0}, "promotion.max_bundle_mib: give more than 0"),
        ({"approval": "me"}, "promotion.approval: write 'auto', or 'human'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, object], message: str) -> None:
    """With the field and the remedy."""
    policy = PromotionPolicy(**{"metric": "roc_auc", "floor": 0.6} | wrong)  # type: ignore[arg-type]

    with pytest.raises(SpecError, match=message):
        ModelSpec(**SOUND | {"promotion": policy})  # type: ignore[arg-type]
