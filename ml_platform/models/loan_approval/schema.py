"""What a loan application must look like, for training and for requests alike."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

FLAG = [0, 1]
FLOAT_FLAG = [0.0, 1.0]


class Schema(pa.DataFrameModel):
    """A mortgage application and its outcome.

    The bank's files write 666, 999 and 999999.4 where a value is missing; the rules let these codes pass, and
    `features.py` reads them as missing. `action`, `reject` and `typur` are known only after the decision, so they
    are not here at all. `male`, `black`, `hispan` and `married` are for fairness slices, never for prediction.
    """

    application_id: int = pa.Field(description="Number of the application")
    applied_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="When it was handed in")
    approve: int = pa.Field(isin=FLAG, description="1 if the loan was approved")

    loanamt: int = pa.Field(ge=0, le=100_000, description="Loan amount, thousand dollars")
    price: float = pa.Field(gt=0, le=100_000, description="Purchase price, thousand dollars")
    appinc: int = pa.Field(ge=0, description="Applicant's income, thousand dollars a year")
    atotinc: float = pa.Field(ge=0, description="Applicant's total income, dollars a month")
    cototinc: float = pa.Field(ge=0, description="Co-applicant's total income, dollars a month")
    hexp: float = pa.Field(ge=0, description="Proposed housing expense, dollars a month")
    other: float = pa.Field(ge=0, description="Other obligations, dollars a month")
    liq: float = pa.Field(ge=0, description="Liquid assets, thousand dollars; 1000000 where unknown")
    netw: float = pa.Field(nullable=True, description="Net worth, thousand dollars")
    hrat: float = pa.Field(ge=0, le=1000, description="Housing expense, percent of total income")
    obrat: float = pa.Field(ge=0, le=1000, description="All obligations, percent of total income")
    lines: float = pa.Field(ge=0, description="Credit lines in the report; 999999.4 where unknown")
    term: float = pa.Field(gt=0, description="Term of the loan, months; 999999.4 where unknown")
    review: int = pa.Field(ge=0, le=999, description="Times the application was reviewed; 666 and 999 where unknown")
    rep: float = pa.Field(ge=0, nullable=True, description="Credit reports asked for")
    mortg: int = pa.Field(ge=1, le=4, description="Mortgage payment history, 1 is best")
    cons: int = pa.Field(ge=1, le=6, description="Consumer credit history, 1 is best")
    pubrec: int = pa.Field(isin=FLAG, description="1 if a bankruptcy is on record")
    unem: float = pa.Field(ge=0, le=100, description="Unemployment in the applicant's industry, percent")
    self: int = pa.Field(isin=FLAG, description="1 if self-employed")
    dep: float = pa.Field(ge=0, le=30, nullable=True, description="Dependants")
    unit: float = pa.Field(ge=1, le=4, nullable=True, description="Units in the property")
    prop: int = pa.Field(isin=[1, 2, 3], description="Property: 1 condominium, 2 one family, 3 two to four families")
    fixadj: int = pa.Field(isin=FLAG, description="1 if the rate is adjustable")
    gift: int = pa.Field(isin=FLAG, description="1 if part of the down payment is a gift")
    cosign: int = pa.Field(isin=FLAG, description="1 if somebody co-signs")

    male: float = pa.Field(isin=FLOAT_FLAG, nullable=True, description="1 if male; fairness slice only")
    black: int = pa.Field(isin=FLAG, description="1 if black; fairness slice only")
    hispan: int = pa.Field(isin=FLAG, description="1 if hispanic; fairness slice only")
    married: float = pa.Field(isin=FLOAT_FLAG, nullable=True, description="1 if married; fairness slice only")
