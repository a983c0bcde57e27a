"""loan_approval: will this mortgage application be approved?"""

from datetime import timedelta

from ml_platform.modeling.spec import ModelSpec, PostgresTable, PromotionPolicy, RetrainPolicy, Task

MODEL = ModelSpec(
    name="loan_approval",
    owner="team:credit",
    purpose="Tells applicants early how likely their mortgage application is to be approved.",
    source=PostgresTable("loan_applications", key="application_id", changed_at="updated_at", event_time="applied_at"),
    label="approved",
    task=Task.BINARY,
    slices=("male", "black", "hispan", "married"),
    promotion=PromotionPolicy(metric="roc_auc", floor=0.65),
    # Days and hours would be usual; minutes let the demo company show what it does.
    retrain=RetrainPolicy(new_rows=100, cooldown=timedelta(minutes=1), weekly_budget=50),
)
