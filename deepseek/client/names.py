"""Names of data sets, models, runs, studies, budgets and federations as users write them.

`colours` and `colours:latest` are the newest version of the data set `colours`, `colours:3` is version 3, and
`colours@champion` is the version at which the alias `champion` points. Resource names such as
`datasets/colours/versions/3` and `models/digits` are accepted, too.
"""

import re
from typing import Literal

from common import names
from common.errors import InvalidArgument

Collection = Literal["datasets", "models"]
"""The collection of a resource, i.e. the first segment of its name."""

_EXAMPLES = "`colours`, `colours:3`, `colours:latest` or `colours@champion`"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}|latest")
_LONG = re.compile(r"(?P<collection>\w+)/(?P<series>[^/:@]+)(/versions/(?P<number>[^/]+)|/aliases/(?P<alias>[^/]+))?")
_SHORT = re.compile(r"((?P<collection>\w+)/)?(?P<series>[^/:@]+)(:(?P<number>[^/:@]+)|@(?P<alias>[^/:@]+))?")


def series_id(text: str, collection: Collection, *, field: str) -> str:
    """Returns the id of a data set or model.

    >>> series_id("datasets/colours", "datasets", field="dataset")
    'colours'

    Args:
        text: The id, or the resource name.
        collection: Collection to which the resource belongs.
        field: Name of the option or request field, for the error.

    Raises:
        InvalidArgument: BAD_NAME if the text is not such a name, or if it names a version.
    """
    found = _match(text, collection, field)
    if found["number"] or found["alias"]:
        message = f"{text[:200]!r} names a version; write {found['series']!r}"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return str(found["series"])


def version_name(text: str, collection: Collection, *, field: str) -> str:
    """Returns the resource name of a version. `latest` and aliases are not resolved.

    >>> version_name("colours", "datasets", field="dataset")
    'datasets/colours/versions/latest'
    >>> version_name("models/digits@champion", "models", field="model")
    'models/digits/aliases/champion'

    Args:
        text: The name as the user wrote it; see the module's docstring.
        collection: Collection to which the version belongs.
        field: Name of the option or request field, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    found = _match(text, collection, field)
    prefix = f"{collection}/{found['series']}"
    return (
        f"{prefix}/aliases/{found['alias']}" if found["alias"] else f"{prefix}/versions/{found['number'] or 'latest'}"
    )


def alias_name(text: str, collection: Collection, *, field: str) -> str:
    """Returns the resource name of an alias.

    >>> alias_name("digits@champion", "models", field="alias")
    'models/digits/aliases/champion'

    Raises:
        InvalidArgument: BAD_NAME, also if the text names no alias.
    """
    found = _match(text, collection, field)
    if not found["alias"]:
        message = f"{text[:200]!r} does not name an alias; write e.g. `{found['series']}@champion`"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return f"{collection}/{found['series']}/aliases/{found['alias']}"


def deletable_name(text: str, collection: Collection, *, field: str, every: bool) -> str:
    """Returns the name of what to delete: exactly one version or, if `every` is set, all of a data set or model.

    >>> deletable_name("digits:3", "models", field="model", every=False)
    'models/digits/versions/3'

    Raises:
        InvalidArgument: BAD_NAME if the text names no version by its number, or if `every` is set and it names one.
    """
    if every:
        return f"{collection}/{series_id(text, collection, field=field)}"
    found = _match(text, collection, field)
    if not (found["number"] or "").isdigit():
        example = f"write e.g. `{found['series']}:3`, or delete all versions with --all (in Python: every=True)"
        message = f"{text[:200]!r} names no single version; {example}"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return version_name(text, collection, field=field)


def is_numbered(name: str) -> bool:
    """Returns whether the resource name of a version has its number, i.e. it is neither `latest` nor an alias.

    >>> is_numbered("models/digits/versions/3"), is_numbered("models/digits/versions/latest")
    (True, False)
    """
    return "/versions/" in name and name.rpartition("/")[2].isdigit()


def resource_name(text: str, *, field: str) -> str:
    """Returns the name of any resource, e.g. `runs/x7`; a short name is that of a model version.

    >>> resource_name("digits:3", field="name"), resource_name("runs/x7", field="name")
    ('models/digits/versions/3', 'runs/x7')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    collection = text.partition("/")[0]
    if collection == "datasets":
        return version_name(text, "datasets", field=field)
    return text if "/" in text and collection != "models" else version_name(text, "models", field=field)


def served_version(text: str, *, field: str) -> tuple[str, str]:
    """Returns the id of a model, and a reference to one of its versions: a number, an alias or `latest`.

    The reference is empty if the user named only the model; it then means the served version.

    >>> served_version("digits", field="model"), served_version("models/digits@champion", field="model")
    (('digits', ''), ('digits', 'champion'))

    Raises:
        InvalidArgument: BAD_NAME.
    """
    found = _match(text, "models", field)
    return found["series"], found["alias"] or found["number"] or ""


def run_name(text: str, *, field: str = "run") -> str:
    """Returns the resource name of a run.

    >>> run_name("x7"), run_name("runs/x7")
    ('runs/x7', 'runs/x7')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return f"runs/{_check_id(text.removeprefix('runs/'), '`x7` or `runs/x7`', field)}"


def upload_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of an upload.

    >>> upload_name("2f7c"), upload_name("uploads/2f7c")
    ('uploads/2f7c', 'uploads/2f7c')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return f"uploads/{_check_id(text.removeprefix('uploads/'), '`2f7c` or `uploads/2f7c`', field)}"


def budget_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a privacy budget.

    >>> budget_name("clinics"), budget_name("budgets/clinics")
    ('budgets/clinics', 'budgets/clinics')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return f"budgets/{_check_id(text.removeprefix('budgets/'), '`clinics` or `budgets/clinics`', field)}"


def study_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a study.

    >>> study_name("digits"), study_name("studies/digits")
    ('studies/digits', 'studies/digits')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return f"studies/{_check_id(text.removeprefix('studies/'), '`digits` or `studies/digits`', field)}"


def trial_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a trial of a study.

    >>> trial_name("digits/3"), trial_name("studies/digits/trials/3")
    ('studies/digits/trials/3', 'studies/digits/trials/3')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    examples = "`digits/3` or `studies/digits/trials/3`"
    found = re.fullmatch(r"studies/([^/]+)/trials/([1-9][0-9]{0,8})|([^/]+)/([1-9][0-9]{0,8})", text)
    if not found:
        raise InvalidArgument("BAD_NAME", f"{text[:200]!r} is not a name; write e.g. {examples}", field=field)
    return f"studies/{_check_id(found[1] or found[3], examples, field)}/trials/{found[2] or found[4]}"


def federation_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a federation.

    >>> federation_name("clinics"), federation_name("federations/clinics")
    ('federations/clinics', 'federations/clinics')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return f"federations/{_check_id(text.removeprefix('federations/'), '`clinics` or `federations/clinics`', field)}"


def node_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a node of a federation.

    >>> node_name("clinics/north"), node_name("federations/clinics/nodes/north")
    ('federations/clinics/nodes/north', 'federations/clinics/nodes/north')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return _member_name(text, "nodes", "north", field)


def federated_run_name(text: str, *, field: str = "name") -> str:
    """Returns the resource name of a federated run.

    >>> federated_run_name("clinics/x7"), federated_run_name("federations/clinics/runs/x7")
    ('federations/clinics/runs/x7', 'federations/clinics/runs/x7')

    Raises:
        InvalidArgument: BAD_NAME.
    """
    return _member_name(text, "runs", "x7", field)


def short_name(name: str) -> str:
    """Returns the short form of the name of a data set, model or version.

    >>> short_name("datasets/colours/versions/3"), short_name("models/digits/aliases/champion"), short_name("models/a")
    ('colours:3', 'digits@champion', 'a')
    """
    _, series, *rest = name.split("/")
    return series + {"versions": ":", "aliases": "@"}[rest[0]] + rest[1] if rest else series


def _member_name(text: str, collection: Literal["nodes", "runs"], example: str, field: str) -> str:
    """Returns the resource name of a member of a federation, e.g. of a node."""
    examples = f"`clinics/{example}` or `federations/clinics/{collection}/{example}`"
    found = re.fullmatch(rf"federations/([^/]+)/{collection}/([^/]+)|([^/]+)/([^/]+)", text)
    if found:
        federation, member = found[1] or found[3], found[2] or found[4]
        _check_id(federation, examples, field)
        return f"federations/{federation}/{collection}/{_check_id(member, examples, field)}"
    raise InvalidArgument("BAD_NAME", f"{text[:200]!r} is not a name; write e.g. {examples}", field=field)


def _match(text: str, collection: Collection, field: str) -> "re.Match[str]":
    found = _LONG.fullmatch(text) or _SHORT.fullmatch(text)
    if not found or (found["number"] and not _NUMBER.fullmatch(found["number"])):
        raise InvalidArgument("BAD_NAME", f"{text[:200]!r} is not a name; write {_EXAMPLES}", field=field)
    if found["collection"] not in (None, collection):
        kind = {"datasets": "data set", "models": "model"}[collection]
        raise InvalidArgument("BAD_NAME", f"{text[:200]!r} does not name a {kind}; write {_EXAMPLES}", field=field)
    _check_id(found["series"], _EXAMPLES, field)
    if found["alias"]:
        _check_id(found["alias"], _EXAMPLES, field)
    return found


def _check_id(value: str, examples: str, field: str) -> str:
    try:
        return names.check_id(value, field=field)
    except InvalidArgument as error:
        raise InvalidArgument("BAD_NAME", f"{error.message}; write e.g. {examples}", field=field) from error
