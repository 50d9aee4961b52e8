"""Uses of data that would reveal it without a debit of its privacy budget: they are refused."""

from common.errors import FailedPrecondition


def has_budget(data: str, budget: str, remedy: str, *, field: str) -> FailedPrecondition:
    """Returns the error of a use of data that has a budget, which the use would not debit.

    Args:
        data: Name of the data, e.g. `datasets/<id>`.
        budget: `budgets/<id>`, which limits what is revealed about the data.
        remedy: What to do, as the end of a sentence.
        field: Field of the request that names or omits something.

    >>> print(has_budget("datasets/d", "budgets/b", "train on other data", field="data").message)
    datasets/d has the privacy budget budgets/b, which would not be debited; train on other data
    """
    message = f"{data} has the privacy budget {budget}, which would not be debited; {remedy}"
    return FailedPrecondition("DATASET_HAS_BUDGET", message, field=field)
