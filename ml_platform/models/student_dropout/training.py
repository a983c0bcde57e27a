"""How student_dropout is trained: what it learns to predict, and the estimator."""

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_platform.modeling.columns import Numbers, Texts


def dropped_out(hsgrad: Texts) -> Numbers:
    """1 if the student left without a diploma, missing while nobody knows."""
    return np.select([hsgrad == "0", hsgrad == "1"], [1.0, 0.0], default=np.nan)


def estimator(seed: int) -> Pipeline:
    """A logistic regression: few columns, and counsellors can read it."""
    return make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(C=0.5, random_state=seed)
    )
