"""Features of student_dropout: functions of columns, the same in training and in serving."""

import numpy as np

from ml_platform.modeling.columns import Numbers

COLUMNS = ("motheduc", "fatheduc", "lfaminc", "cathhs", "parcath")


def parents_education(motheduc: Numbers, fatheduc: Numbers) -> Numbers:
    """Years of education of the parents, the mean of both."""
    return (motheduc + fatheduc) / 2


def less_educated_parent(motheduc: Numbers, fatheduc: Numbers) -> Numbers:
    """Years of education of the parent who has fewer."""
    return np.minimum(motheduc, fatheduc)


def low_income(lfaminc: Numbers) -> Numbers:
    """1 if the family lives on less than about 20,000 dollars a year."""
    return np.where(np.isnan(lfaminc), np.nan, (lfaminc < np.log(20_000)).astype(float))
