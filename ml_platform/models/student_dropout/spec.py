"""student_dropout: who is likely to leave school without a diploma?"""

from datetime import timedelta

from ml_platform.modeling.spec import ModelSpec, PostgresTable, PromotionPolicy, RetrainPolicy, Task

MODEL = ModelSpec(
    name="student_dropout",
    owner="team:education",
    purpose="Points counsellors to students who may leave school without a diploma, while there is time to help.",
    source=PostgresTable("students", key="student_id", changed_at="updated_at"),
    label="dropped_out",
    task=Task.BINARY,
    slices=("female", "asian", "hispan", "black"),
    promotion=PromotionPolicy(metric="roc_auc", floor=0.6),
    # Days and hours would be usual; minutes let the demo company show what it does.
    retrain=RetrainPolicy(new_rows=300, cooldown=timedelta(minutes=1), weekly_budget=50),
)
