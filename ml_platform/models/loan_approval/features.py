"""Features of loan_approval: functions of columns, the same in training and in serving."""

import numpy as np

from ml_platform.modeling.columns import Numbers, Texts

COLUMNS = (
    "loanamt",
    "hrat",
    "obrat",
    "netw",
    "rep",
    "mortg",
    "cons",
    "pubrec",
    "unem",
    "self",
    "dep",
    "unit",
    "fixadj",
    "gift",
    "cosign",
)


def loan_to_price(loanamt: Numbers, price: Numbers) -> Numbers:
    """Loan as a share of the purchase price."""
    return loanamt / price


def income(atotinc: Numbers, cototinc: Numbers) -> Numbers:
    """Income of applicant and co-applicant together, dollars a month."""
    return atotinc + cototinc


def expense_share(hexp: Numbers, other: Numbers, income: Numbers) -> Numbers:
    """Housing expense and other obligations as a share of income; missing without income."""
    return np.where(income > 0, (hexp + other) / income, np.nan)


def liquid_assets(liq: Numbers) -> Numbers:
    """Liquid assets, thousand dollars; the code 1000000 is read as missing."""
    return np.where(liq >= 1_000_000, np.nan, liq)


def credit_lines(lines: Numbers) -> Numbers:
    """Credit lines in the report; the code 999999.4 is read as missing."""
    return np.where(lines > 999_999, np.nan, lines)


def term_months(term: Numbers) -> Numbers:
    """Term of the loan, months; the code 999999.4 is read as missing."""
    return np.where(term > 999_999, np.nan, term)


def reviews(review: Numbers) -> Numbers:
    """How often the application was reviewed; the codes 666 and 999 are read as missing."""
    return np.where((review == 666) | (review == 999), np.nan, review)


def property_type(prop: Numbers) -> Texts:
    """The property in words."""
    words = np.array(["condominium", "one family", "two to four families"], dtype=object)
    named: Texts = words[prop.astype(int) - 1]
    return named
