"""The parts that a run can name: models, losses, optimizers, schedules, metrics, encoders and augmentations.

A package adds parts by entry points in the groups `deepseek.models`, `deepseek.losses`, ..., ours among them: nothing
is special about a built-in one. Names are known without importing what is behind them, so a server can check a spec
without torch; a part is imported when it is built. A part is a callable whose keyword arguments are its parameters:
its signature is the schema they are checked against.

Not a plugin system: nothing is discovered beyond entry points, and nothing is called at import.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError
from common.scalars import python_value


class Components:
    """The parts of one kind, by name. Thread-safe but for `register`.

    Args:
        kind: What a part is called in messages, e.g. `model`.
        group: Its entry-point group, e.g. `deepseek.models`.

    >>> losses = Components("loss", "example.losses")
    >>> losses.register("scaled", lambda factor=1.0: factor)
    >>> losses.names(), losses.build("scaled", {"factor": 2.0})
    (['scaled'], 2.0)
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._registered: dict[str, Callable[..., Any]] = {}
        self._entry_points: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """Returns all known names, sorted; imports nothing.

        Raises:
            FailedPrecondition: DUPLICATE_COMPONENT if two packages claim the same name.
        """
        return sorted({*self._installed(), *self._registered})

    def check(self, name: str, *, field: str) -> None:
        """Checks that a name is known; imports nothing.

        Raises:
            InvalidArgument: UNKNOWN_COMPONENT at `field`; the message lists the known names.
            FailedPrecondition: DUPLICATE_COMPONENT.
        """
        known = self.names()
        if name not in known:
            message = f"there is no {self.kind} {str(name)[:80]!r}; known are: {', '.join(known) or 'none'}"
            raise InvalidArgument("UNKNOWN_COMPONENT", message, field=field)

    def get(self, name: str, *, field: str = "") -> Callable[..., Any]:
        """Imports a part and returns it.

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
        except (ImportError, AttributeError) as error:
            message = f"the {self.kind} {name!r} ({entry_point.value}) cannot be imported: {error}"
            raise FailedPrecondition("COMPONENT_NOT_IMPORTABLE", message, field=field) from error
        assert callable(part), f"{entry_point.value} is not callable"
        return typing.cast(Callable[..., Any], part)

    def build(self, name: str, params: Mapping[str, Any], /, *, field: str = "", **given: Any) -> Any:
        """Calls a part with parameters that a user wrote.

        Args:
            name: Name of the part.
            params: Its keyword arguments out of JSON or a protobuf Struct. A whole number given as a float becomes an
                integer where the signature wants one (a Struct has only doubles), a list a tuple likewise.
            field: Where the part stands in the user's request, for errors.
            **given: Further arguments that are ours, not the user's; `params` may not name them.

        Returns:
            What the part returns.

        Raises:
            InvalidArgument: UNKNOWN_COMPONENT at `<field>.name`; UNKNOWN_FIELD, MISSING_FIELD or BAD_VALUE at
                `<field>.params.<parameter>`; or what the part raises, with its field put under `<field>.params`.
            FailedPrecondition: As `get`.
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
            raise InvalidArgument("BAD_VALUE", f"the {self.kind} {name!r} refuses: {error}", field=path) from error

    def register(self, name: str, part: Callable[..., Any]) -> None:
        """Adds a part in this process only.

        Raises:
            AlreadyExists: DUPLICATE_COMPONENT if the name is taken.
        """
        if name in self.names():
            message = f"there is already a {self.kind} {name!r}; known are: {', '.join(self.names())}"
            raise AlreadyExists("DUPLICATE_COMPONENT", message, field="name")
        self._registered[name] = part

    def _installed(self) -> dict[str, EntryPoint]:
        if self._entry_points is None:
            found: dict[str, EntryPoint] = {}
            for entry_point in entry_points(group=self.group):
                other = found.setdefault(entry_point.name, entry_point)
                if other.value != entry_point.value:
                    message = f"{other.value} and {entry_point.value} both claim the {self.kind} {entry_point.name!r}"
                    raise FailedPrecondition("DUPLICATE_COMPONENT", f"{message}; uninstall one of their packages")
            self._entry_points = found
        return self._entry_points

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
                message = f"the {self.kind} {name!r} needs the parameter {key!r}"
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
    except (NameError, TypeError):  # a foreign part whose annotations cannot be resolved is not checked by type
        return {}


def _convert(value: Any, hint: Any, field: str) -> Any:
    """Checks a JSON value against a type hint of the kinds that JSON can express; others pass as they are."""
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
    raise InvalidArgument("BAD_VALUE", f"{str(value)[:80]!r} is not of the type {expected}", field=field)


MODELS = Components("model", "deepseek.models")
LOSSES = Components("loss", "deepseek.losses")
OPTIMIZERS = Components("optimizer", "deepseek.optimizers")
SCHEDULES = Components("schedule", "deepseek.schedules")
METRICS = Components("metric", "deepseek.metrics")
ENCODERS = Components("encoder", "deepseek.encoders")
AUGMENTATIONS = Components("augmentation", "deepseek.augmentations")
