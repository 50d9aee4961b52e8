"""Registries of the components of a run: models, losses, optimizers, schedules, policies, metrics, encoders, …

Packages add components through entry points in the groups `deepseek.models`, `deepseek.losses` and so on; built-in
components are declared in the same way. A component is a callable, and its signature is the schema of its parameters.
Names can be looked up without importing the components, so a server can validate a run's spec without importing torch.
A component is imported only when it is used. A component that is installed while a program runs is found, too.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError
from common.scalars import python_value

RESTART = "If its package was installed after the mesh was started, run: deepseek down && deepseek up"
"""Advice for a module that cannot be found. Editable packages extend the module search path only of new processes."""


class Components:
    """Registry of the components of one kind, by name. Thread-safe except for `register`.

    Args:
        kind: Name of the kind in error messages, e.g. `model`.
        group: Entry-point group, e.g. `deepseek.models`.
        given: Names of the arguments that the caller of `build` supplies, and that users cannot set.

    >>> losses = Components("loss", "example.losses")
    >>> losses.register("scaled", lambda factor=1.0: factor)
    >>> losses.names(), losses.build("scaled", {"factor": 2.0})
    (['scaled'], 2.0)
    """

    def __init__(self, kind: str, group: str, given: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.group = group
        self.given = given
        self._registered: dict[str, Callable[..., Any]] = {}
        self._entry_points: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """Returns all known names, sorted, without importing any component.

        Raises:
            FailedPrecondition: DUPLICATE_COMPONENT if two packages claim the same name.
        """
        return sorted({*self._installed(), *self._registered})

    def check(self, name: str, *, field: str) -> None:
        """Checks that a name is known, without importing the component.

        Raises:
            InvalidArgument: UNKNOWN_COMPONENT at `field`; the message lists the known names.
            FailedPrecondition: DUPLICATE_COMPONENT, as for `names`.
        """
        if name not in self.names():
            self._entry_points = None  # its package may have been installed since this program started
        known = self.names()
        if name not in known:
            message = f"unknown {self.kind} {str(name)[:80]!r}; known: {', '.join(known) or 'none'}"
            raise InvalidArgument("UNKNOWN_COMPONENT", message, field=field)

    def get(self, name: str, *, field: str = "") -> Callable[..., Any]:
        """Imports a component and returns it.

        Raises:
            InvalidArgument: UNKNOWN_COMPONENT at `field`.
            FailedPrecondition: COMPONENT_NOT_IMPORTABLE if its package is broken or lacks a dependency.
        """
        self.check(name, field=field)
        if name in self._registered:
            return self._registered[name]
        entry_point = self._installed()[name]
        try:
            part = entry_point.load()
        except Exception as error:  # a package may raise anything while it is imported
            message = f"the {self.kind} {name!r} ({entry_point.value}) cannot be imported: {error}"
            if isinstance(error, ModuleNotFoundError):
                message = f"{message}. {RESTART}"
            raise FailedPrecondition("COMPONENT_NOT_IMPORTABLE", message, field=field) from error
        assert callable(part), f"{entry_point.value} is not callable"
        return typing.cast(Callable[..., Any], part)

    def build(self, name: str, params: Mapping[str, Any], /, *, field: str = "", **given: Any) -> Any:
        """Calls a component with a user's parameters, and returns its result.

        Args:
            name: Name of the component.
            params: Keyword arguments from JSON or a protobuf Struct. If the signature requires an integer, a float
                without a fractional part is converted (a Struct holds only doubles). If the signature requires a tuple,
                a list is converted.
            field: Path of the component in the user's request, for use in errors.
            **given: Additional keyword arguments from the caller; `params` must not contain the same names.

        Raises:
            InvalidArgument: UNKNOWN_COMPONENT at `<field>.name`; UNKNOWN_FIELD, MISSING_FIELD or BAD_VALUE at
                `<field>.params.<parameter>`; BAD_VALUE at `<field>.params` if the component rejects its parameters; or
                an InvalidArgument error that the component raises, with `<field>.params.` prepended to its field.
            FailedPrecondition: COMPONENT_NOT_IMPORTABLE, as for `get`.
        """
        prefix = f"{field}." if field else ""
        part = self.get(name, field=f"{prefix}name")
        path = f"{prefix}params"
        arguments = self._bind(name, part, params, given, path)
        try:
            return part(**given, **arguments)
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field=f"{path}.{error.field}".rstrip(".")) from error
        except (ValueError, TypeError) as error:
            message = f"the {self.kind} {name!r} rejects its parameters: {error}"
            raise InvalidArgument("BAD_VALUE", message, field=path) from error

    def module(self, name: str) -> str:
        """Returns the name of the module of an installed component, without importing it; empty for other components.

        Raises:
            FailedPrecondition: DUPLICATE_COMPONENT, as for `names`.
        """
        entry_point = None if name in self._registered else self._installed().get(name)
        return entry_point.module if entry_point else ""

    def register(self, name: str, part: Callable[..., Any]) -> None:
        """Adds a component in this process only.

        Raises:
            AlreadyExists: DUPLICATE_COMPONENT if the name is taken.
        """
        if name in self.names():
            message = f"there is already a {self.kind} {name!r}; known: {', '.join(self.names())}"
            raise AlreadyExists("DUPLICATE_COMPONENT", message, field="name")
        self._registered[name] = part

    def _installed(self) -> dict[str, EntryPoint]:
        found = self._entry_points
        if found is None:
            found = {}
            for entry_point in entry_points(group=self.group):
                other = found.setdefault(entry_point.name, entry_point)
                if other.value != entry_point.value:
                    message = f"{other.value} and {entry_point.value} both claim the {self.kind} {entry_point.name!r}"
                    raise FailedPrecondition("DUPLICATE_COMPONENT", f"{message}; uninstall one of their packages")
            self._entry_points = found
        return found

    def _bind(
        self, name: str, part: Callable[..., Any], params: Mapping[str, Any], given: Mapping[str, Any], path: str
    ) -> dict[str, Any]:
        parameters = inspect.signature(part).parameters
        hints = _type_hints(part)
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        named = {
            key: parameter
            for key, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and key not in given
        }
        for key in params:
            if key in given or (key not in named and not takes_any):
                message = f"the {self.kind} {name!r} has no parameter {key[:80]!r}; it has: {', '.join(named)}"
                raise InvalidArgument("UNKNOWN_FIELD", message, field=f"{path}.{key}")
        for key, parameter in named.items():
            if parameter.default is parameter.empty and key not in params:
                message = f"the {self.kind} {name!r} requires the parameter {key!r}"
                raise InvalidArgument("MISSING_FIELD", message, field=f"{path}.{key}")
        try:
            return {key: _convert(value, hints.get(key, Any), f"{path}.{key}") for key, value in params.items()}
        except MeshError as error:
            message = f"the {self.kind} {name!r}: {error.message}"
            raise InvalidArgument(error.reason, message, field=error.field) from error


def _type_hints(part: Callable[..., Any]) -> dict[str, Any]:
    function = part.__init__ if inspect.isclass(part) else part
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # if annotations cannot be resolved, types are not checked
        return {}


def _convert(value: Any, hint: Any, field: str) -> Any:
    """Checks a JSON value against a type hint, and converts it to the hinted type.

    Numbers, text, booleans, None, lists, tuples, mappings and unions of these are supported. With any other hint, the
    value is returned unchecked.
    """
    value = python_value(value)
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in choices:
            try:
                return _convert(value, choice, field)
            except InvalidArgument:
                continue
    elif origin in (tuple, list):
        if isinstance(value, list | tuple):
            repeated = origin is list or choices[-1:] == (Ellipsis,)
            hints = [choices[0]] * len(value) if repeated else list(choices)
            if len(hints) == len(value):
                items = zip(value, hints, strict=True)
                return origin(_convert(item, inner, f"{field}[{i}]") for i, (item, inner) in enumerate(items))
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {str(key): _convert(item, choices[1], f"{field}.{key}") for key, item in value.items()}
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        ):
            return int(value)
    elif hint is float:
        if not isinstance(value, bool) and isinstance(value, int | float):
            return float(value)
    elif hint is str or hint is types.NoneType:
        if isinstance(value, hint):
            return value
    else:
        return value
    expected = hint.__name__ if inspect.isclass(hint) else str(hint)
    raise InvalidArgument("BAD_VALUE", f"{str(value)[:80]!r} is not of type {expected}", field=field)


MODELS = Components("model", "deepseek.models")
LOSSES = Components("loss", "deepseek.losses")
OPTIMIZERS = Components("optimizer", "deepseek.optimizers", given=("params",))
SCHEDULES = Components("schedule", "deepseek.schedules")
POLICIES = Components("policy", "deepseek.policies", given=("epoch", "current_lr"))
METRICS = Components("metric", "deepseek.metrics")
ENCODERS = Components("encoder", "deepseek.encoders")
AUGMENTATIONS = Components("augmentation", "deepseek.augmentations")
ALGORITHMS = Components("algorithm", "deepseek.algorithms", given=("context",))
PRUNERS = Components("pruner", "deepseek.pruners", given=("context",))

REGISTRIES = {
    registry.kind: registry
    for registry in (
        MODELS,
        ENCODERS,
        AUGMENTATIONS,
        LOSSES,
        METRICS,
        OPTIMIZERS,
        SCHEDULES,
        POLICIES,
        ALGORITHMS,
        PRUNERS,
    )
}
"""All registries, by kind."""
