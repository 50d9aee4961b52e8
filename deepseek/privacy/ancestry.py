"""Ancestors of models that have used private data without protection, found in a graph of lineage."""

from collections.abc import Iterable, Mapping

from common.errors import FailedPrecondition


def unprotected_ancestor(
    edges: Iterable[tuple[str, str]], debits: Mapping[str, str], *, start: str, dataset: str, budget: str
) -> str:
    """Returns the name of a resource that makes a model version unsuitable as the start of a private run.

    A model version that has used the data without a debit of the budget may reveal it, and so may every model that was
    made from it: the guarantee of a later run would not include this loss. A federation's data is used by its runs, and
    a data set by its versions.

    Args:
        edges: Source and target of each edge of the graph; they may also lead to descendants.
        debits: Debit of each model version that has a guarantee, by the name of the version.
        start: Name of the model version from which the run is to start.
        dataset: Name of the data that the budget protects, `datasets/<id>` or `federations/<id>`.
        budget: `budgets/<id>`.

    Returns:
        Name of the version, which may be `start` itself; empty if there is none. If a data set was used through
        another data set that was made from it, the name is that of the model version nearest to it.

    >>> edges = [("datasets/d/versions/1", "models/a/versions/1"), ("models/a/versions/1", "models/b/versions/1")]
    >>> unprotected_ancestor(edges, {}, start="models/b/versions/1", dataset="datasets/d", budget="budgets/b")
    'models/a/versions/1'
    >>> debits = {"models/a/versions/1": "budgets/b/debits/7"}
    >>> unprotected_ancestor(edges, debits, start="models/b/versions/1", dataset="datasets/d", budget="budgets/b")
    ''
    """
    sources: dict[str, list[str]] = {}
    for source, target in edges:
        sources.setdefault(target, []).append(source)
    # Each name together with the model version through which it was reached.
    todo, seen = [(start, start)], {(start, start)}
    while todo:
        name, model = todo.pop()
        if name.startswith((f"{dataset}/versions/", f"{dataset}/runs/")):
            return model
        model = name if name.startswith("models/") else model
        is_debited = debits.get(name, "").startswith(f"{budget}/debits/")
        for source in sources.get(name, ()):
            # The guarantee of a debited version includes its training data, but not the version it started from.
            if (source, model) not in seen and (not is_debited or source.startswith("models/")):
                seen.add((source, model))
                todo.append((source, model))
    return ""


def init_not_private(init: str, found: str, *, dataset: str, budget: str, field: str) -> FailedPrecondition:
    """Returns the error of a private run that would start from an unsuitable model version.

    Args:
        init: Name of the version from which the run would start.
        found: Name that `unprotected_ancestor` has returned.
        dataset: As for `unprotected_ancestor`.
        budget: As for `unprotected_ancestor`.
        field: Field of the request that names `init`.
    """
    origin = "" if found == init else f" was made from {found}, which"
    message = (
        f"{init}{origin} was trained on {dataset} without a debit of {budget}, so the guarantee of the run would not "
        "hold; start from a version without this data, or leave out init"
    )
    return FailedPrecondition("INIT_NOT_PRIVATE", message, field=field)
