"""How loan_approval is trained: what it learns to predict, and the estimator."""

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ml_platform.modeling.columns import Numbers


def approved(approve: Numbers) -> Numbers:
    """1 if the loan was approved."""
    return approve


def estimator(seed: int) -> Pipeline:
    """Shallow gradient-boosted trees; they take missing numbers as they are."""
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_include=object)),
        remainder="passthrough",
    )
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=120, max_depth=3, min_samples_leaf=20, l2_regularization=1.0, random_state=seed
    )
    return make_pipeline(encode, trees)
