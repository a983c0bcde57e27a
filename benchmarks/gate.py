"""The gate on drawn contenders: how often equal models are promoted, how often better ones, and what a decision costs.

    python -m benchmarks.gate

Beside it what many do instead, promote the higher score, and the same interval as a loop over scikit-learn. Two models
err together, as two trainings on the same table do. The last line is one JSON object: rates by rows of the holdout,
seconds of 2,000 resamples of 10,000 rows.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
from sklearn.metrics import roc_auc_score

from ml_platform.modeling.bootstrap import RESAMPLES, paired
from ml_platform.modeling.gate import Champion, Decision, decide
from ml_platform.modeling.guardrails import Contender, Holdout
from ml_platform.modeling.spec import METRICS, ModelSpec, PostgresTable, PromotionPolicy, Task
from ml_platform.modeling.weighted_metrics import metric
from ml_platform_tests.modeling.contenders import labels, predictions

SPEC = ModelSpec(
    name="drawn",
    owner="team:benchmarks",
    purpose="Nothing.",
    source=PostgresTable("rows", key="id"),
    label="label",
    task=Task.BINARY,
    promotion=PromotionPolicy(metric="roc_auc", floor=0.5, max_calibration_drop=math.inf),
)
ROWS = (100, 400, 1000)
EQUAL, BETTER, ALIKE = (1.0, 1.0), (0.5, 1.5), (0.3, 0.3)
"""The noise of challenger and champion: within a class, scores of equal ones correlate by 0.5, of alike ones by 0.9."""
YOUNG, OLD = timedelta(days=7), timedelta(days=29)
TIMED_ROWS = 10_000


def duel(noises: tuple[float, float], rows: int, seed: int, age: timedelta) -> Decision:
    """A decision on a challenger and a champion of so much noise."""
    rng = np.random.default_rng(seed)
    actual, luck = labels(Task.BINARY, rows, rng), rng.normal(size=rows)
    one, other = (
        Contender(predicted=predictions(Task.BINARY, actual, noise, rng, luck), row_ms=0.1, bundle_mib=1.0)
        for noise in noises
    )
    champion = Champion(version="1", age=age, contender=other)
    return decide(SPEC, Holdout(actual=actual, slices={}), one, champion)


def rates(duels: int) -> dict[str, object]:
    """Shares of duels that the challenger wins, by the rows of the holdout."""

    def decisions(noises: tuple[float, float], age: timedelta) -> dict[int, list[Decision]]:
        return {rows: [duel(noises, rows, seed, age) for seed in range(duels)] for rows in ROWS}

    def share(decided: dict[int, list[Decision]], won: Callable[[Decision], bool]) -> dict[int, float]:
        return {rows: round(float(np.mean([won(decision) for decision in of])), 3) for rows, of in decided.items()}

    equal, better = decisions(EQUAL, YOUNG), decisions(BETTER, YOUNG)
    gains = [decision.gain.estimate for of in better.values() for decision in of if decision.gain]
    return {
        "equal_promoted": share(equal, lambda d: d.won),
        "equal_promoted_by_higher_score": share(equal, lambda d: d.challenger > (d.champion or 0)),
        "better_by": round(float(np.mean(gains)), 3),
        "better_promoted": share(better, lambda d: d.won),
        "equal_refreshes_old": share(decisions(EQUAL, OLD), lambda d: d.won),
        "alike_refreshes_old": share(decisions(ALIKE, OLD), lambda d: d.won),
    }


def seconds() -> dict[str, float]:
    """What one interval costs, for each metric, and as a loop for the area under the curve."""
    rng = np.random.default_rng(0)
    taken = {}
    for task, names in METRICS.items():
        actual = labels(task, TIMED_ROWS, rng)
        one, other = (predictions(task, actual, 1.0, rng) for _ in range(2))
        for name in names:
            began = time.perf_counter()
            paired(metric(name), actual, one, other, sign=1.0, confidence=0.95, seed=1)
            taken[f"{task} {name}"] = round(time.perf_counter() - began, 2)
        if task is Task.BINARY:
            began = time.perf_counter()
            for _ in range(RESAMPLES // 20):
                rows = rng.integers(0, TIMED_ROWS, TIMED_ROWS)
                roc_auc_score(actual[rows], one.scores[rows])
                roc_auc_score(actual[rows], other.scores[rows])
            taken["scikit-learn roc_auc"] = round(20 * (time.perf_counter() - began), 2)
    return taken


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duels", type=int, default=1000, help="decisions behind each rate")
    duels = parser.parse_args().duels
    print(f"each rate is of {duels} decisions at confidence {SPEC.promotion.confidence}")
    print(json.dumps({"stated_rate": 0.025, **rates(duels), "seconds": seconds()}))


if __name__ == "__main__":
    main()
