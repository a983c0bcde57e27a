"""What a student's record must look like, for training and for requests alike."""

import pandera.polars as pa

FLAG = [0, 1]


class Schema(pa.DataFrameModel):
    """A student's background and whether a diploma followed.

    `read12` and `math12` are test scores of the final year: whoever has one was still there, so they are not here.
    """

    student_id: int = pa.Field(description="Number of the student")
    hsgrad: str = pa.Field(isin=["0", "1", "."], description="1 with a diploma, 0 without, '.' while unknown")

    motheduc: float = pa.Field(ge=0, le=30, nullable=True, description="Mother's years of education")
    fatheduc: float = pa.Field(ge=0, le=30, nullable=True, description="Father's years of education")
    lfaminc: float = pa.Field(ge=0, le=20, nullable=True, description="Logarithm of the family's income in dollars")
    cathhs: int = pa.Field(isin=FLAG, description="1 if at a catholic school")
    parcath: int = pa.Field(isin=FLAG, description="1 if the parents are catholic")

    female: int = pa.Field(isin=FLAG, description="1 if female; fairness slice only")
    asian: int = pa.Field(isin=FLAG, description="1 if asian; fairness slice only")
    hispan: int = pa.Field(isin=FLAG, description="1 if hispanic; fairness slice only")
    black: int = pa.Field(isin=FLAG, description="1 if black; fairness slice only")
