"""Settings of the services: frozen, validated once at start, and then passed in.

A setting comes from a flag, else from the environment (`DEEPSEEK_<SERVICE>_<FIELD>`), else from a TOML file, else it
has its default. Together with pydantic-settings, which it configures, this is the only module that reads the
environment. Secrets are settings only as paths of files.

Kubernetes and docker links set environment variables that are named after services, for example
`DEEPSEEK_INFERENCE_PORT=tcp://10.0.0.7:8001` for a service `deepseek-inference`. They are recognized by their form and
ignored.
"""

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast
from urllib.parse import parse_qsl, quote

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from common.auth import Role
from common.auth.identity import LEEWAY_S
from common.errors import FailedPrecondition, InvalidArgument, Violation
from common.telemetry.traces import DEFAULT_SAMPLING, TraceTarget
from common.text_files import NotUtf8, read_text

S = TypeVar("S", bound="ServiceSettings")
Port = Annotated[int, Field(description="Port to listen on; 0 takes a free one", ge=0, le=65535)]
Address = Annotated[
    str, Field(description="host:port of another service", pattern=r"^[^:/\s]+:\d{1,5}$|^\[.+\]:\d{1,5}$")
]

# As SQLAlchemy reads a URL: a password may hold what would end the host of another URL.
_PASSWORD = re.compile(r"[\w+]+://[^:/]*:[^@]+@")
_LINK = r"_PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://\S+:\d+|_NAME=/[^/]+/[^/]+"
"""Suffix, after the name of a service, of a variable that only Kubernetes or a docker link sets."""

_OF_LINK = re.compile(rf"{_LINK}|_SERVICE_HOST=\S+|_SERVICE_PORT(_\w+)?=\d+|_PORT_\d+_\w+=\S+|_ENV_\w+=.*", re.DOTALL)
"""Suffixes of the variables that accompany it."""

_LINK_OF = re.compile(rf"(\w+?)({_LINK})")
_SECRET_PARAMETER = re.compile(r"pass(?!file$)|pwd|secret|scram_\w+_key", re.IGNORECASE)


def home() -> Path:
    """The directory of a mesh on this machine: `DEEPSEEK_HOME`, else `~/.deepseek`."""
    return Path(os.environ.get("DEEPSEEK_HOME") or Path.home() / ".deepseek").absolute()


class TraceSettings(BaseSettings):
    """Where spans go: `DEEPSEEK_TRACE_FILE` and its like for all processes of a mesh and the command line alike."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True, env_prefix="DEEPSEEK_")

    trace_file: Path | None = Field(None, description="File that spans are added to as OTLP/JSON; may be shared by all")
    otlp_endpoint: str = Field(
        "",
        description="http(s)://host:port of a collector that takes spans by OTLP over gRPC",
        pattern=r"^(https?://[^\s/@]+)?$",
    )
    trace_sampling: float = Field(
        DEFAULT_SAMPLING, description="Part of the traces that begin here, and not at a caller, to record", ge=0, le=1
    )

    @field_validator("trace_file")
    @classmethod
    def _make_absolute(cls, path: Path | None) -> Path | None:
        return path.absolute() if path else None

    @property
    def trace_target(self) -> TraceTarget:
        """Where spans go."""
        return TraceTarget(self.trace_file, self.otlp_endpoint)

    @classmethod
    def load(cls) -> Self:
        """Reads them from the environment alone.

        Raises:
            InvalidArgument: BAD_SETTING.
        """
        try:
            return cls()  # type: ignore[call-arg]  # the plugin that knows of defaults is not used
        except ValidationError as error:
            raise _bad_setting(error) from error


class ServiceSettings(TraceSettings):
    """What every service can be told."""

    service: ClassVar[str]
    callers: ClassVar[Mapping[str, Role]] = MappingProxyType({})
    """The services that may call this one, and as what."""

    host: str = Field("127.0.0.1", description="Address to listen on; without an identity, loopback only")
    port: Port
    home: Path = Field(default_factory=home, description="Directory of state, store and caches; made if missing")
    state_url: str = Field("", description="SQLAlchemy URL of the state; default: an SQLite file in home")
    identity: Path | None = Field(
        None,
        description="Folder with ca.pem, cert.pem, key.pem and jwks.json (`deepseek certs`): TLS for all, and tokens",
    )
    token_leeway_s: float = Field(
        LEEWAY_S, description="Accepted clock skew of a token's issuer, seconds", ge=0, le=300
    )
    max_message_bytes: int = Field(64 << 20, description="Largest message, bytes", gt=0)
    unary_workers: int = Field(8, description="Threads for unary calls", gt=0)
    max_streams: int = Field(32, description="Streams at the same time; more are refused", gt=0)
    max_streams_per_caller: int = Field(16, description="Streams of one user at the same time", gt=0)
    max_streams_per_tenant: int = Field(24, description="Streams of one tenant at the same time", gt=0)
    rate: float = Field(5000, description="Calls a second that one user may make in the long run", gt=0)
    burst: int = Field(10_000, description="Calls that one user may make at once", gt=0)
    deadline_s: float = Field(30, description="Deadline of calls that bring none, and of calls to others", gt=0)
    drain_s: float = Field(10, description="Seconds that accepted calls get to finish on SIGTERM", ge=0)
    lame_duck_s: float = Field(
        0, description="Seconds that a server on SIGTERM says it is not ready and still answers, for a balancer", ge=0
    )
    address_file: Path | None = Field(None, description="File to write the bound address to, as JSON")
    parent_pid: int | None = Field(None, description="End when this process ends", gt=0)
    metrics_port: int | None = Field(
        None, description="Port of the metrics for Prometheus, over HTTP; 0 takes a free one", ge=0, le=65535
    )
    audit_head: bool = Field(False, description="Print the anchored head of the audit log as JSON, and end")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    config: Path | None = Field(None, description="TOML file; its table of the service's name holds settings")

    @model_validator(mode="before")
    @classmethod
    def _fill_places(cls, values: Any) -> Any:
        place = Path(values.get("home") or home()).absolute()
        return {
            **values,
            "home": place,
            "state_url": values.get("state_url") or f"sqlite:///{quote(str(place / 'state' / f'{cls.service}.db'))}",
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, which pydantic-settings puts first, then what a program sets, the environment, and the file."""
        own = cast(EnvSettingsSource, env_settings)
        kept = {name.lower() for name in _environment()}
        own.env_vars = {name: value for name, value in own.env_vars.items() if name.lower() in kept}
        return init_settings, own, _SharedEnvironment(settings_cls), _TomlTable(settings_cls)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.model_config["env_prefix"] = cls.variable("")

    @classmethod
    def variable(cls, field: str) -> str:
        """Name of the environment variable of a setting."""
        return f"DEEPSEEK_{cls.service}_{field}".upper()

    @model_validator(mode="after")
    def _listen_on_loopback(self) -> Self:
        if not self.identity and not _is_loopback(self.host):
            raise FailedPrecondition(
                "INSECURE_BIND",
                f"{self.host} is not a loopback address, and without TLS and authentication a service listens on "
                "loopback only; use 127.0.0.1, or give it an identity (`deepseek certs init` makes them)",
                field="host",
            )
        return self

    @property
    def audit_file(self) -> Path:
        """Where the audit log is."""
        return self.home / "audit" / f"{self.service}.jsonl"

    @field_validator("state_url")
    @classmethod
    def _refuse_passwords(cls, url: str) -> str:
        parameters = parse_qsl(url.partition("?")[2], keep_blank_values=True)
        if _PASSWORD.match(url) or any(_SECRET_PARAMETER.search(name) for name, _ in parameters):
            raise ValueError("holds a password; keep it in a PostgreSQL password file and add ?passfile=/path/of/it")
        return url

    def prepare(self) -> Self:
        """Makes the directories that the settings name, for the owner alone.

        Raises:
            FailedPrecondition: HOME_NOT_WRITABLE.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.home / "state").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition("HOME_NOT_WRITABLE", f"{self.home}: {error.strerror}", field="home") from error
        return self


class StoreSettings(ServiceSettings):
    """What a service can be told that reads or writes artifacts."""

    service: ClassVar[str] = ""

    store_url: str = Field(
        "",
        description="Artifact store: file:///path or s3+https://host/bucket[?region=NAME]; default: in home",
    )
    store_access_key_file: Path | None = Field(None, description="File with the S3 access key")
    store_secret_key_file: Path | None = Field(None, description="File with the S3 secret key")

    @model_validator(mode="before")
    @classmethod
    def _fill_store(cls, values: Any) -> Any:
        place = Path(values.get("home") or home()).absolute()
        return {**values, "store_url": values.get("store_url") or (place / "store").as_uri()}

    @classmethod
    def of(cls, name: str, place: Path) -> "StoreSettings":
        """The store settings that a service started from this environment finds.

        Args:
            name: Name of the service.
            place: Its home directory.
        """

        class Named(cls):  # type: ignore[misc, valid-type]
            service: ClassVar[str] = name
            port: Port = 0

        settings: StoreSettings = Named(home=place)
        return settings


def load_settings(cls: type[S], argv: Sequence[str] | None = None) -> S:
    """Reads the settings of a service. `--help` prints them all and ends the process.

    Args:
        cls: The service's settings.
        argv: Its flags; None means those of this process.

    Raises:
        InvalidArgument: BAD_SETTING, UNKNOWN_SETTING with every setting that is wrong; BAD_CONFIG_FILE.
        FailedPrecondition: INSECURE_BIND if the host is not loopback and there is no identity; HOME_NOT_WRITABLE.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    prefix = cls.variable("")
    ours = [name for name in _environment() if name.startswith(prefix)]
    unknown = [name for name in ours if name.removeprefix(prefix).lower() not in cls.model_fields]
    if unknown:
        known = ", ".join(map(cls.variable, cls.model_fields))
        violations = [Violation(name, "is not a setting of this service") for name in unknown]
        raise InvalidArgument(
            "UNKNOWN_SETTING", f"{', '.join(unknown)} is not a setting; known are {known}", violations=violations
        )
    try:
        parsing: dict[str, Any] = {
            "_cli_parse_args": flags,
            "_cli_prog_name": f"python -m services.{cls.service}",
            "_cli_kebab_case": True,
            "_cli_hide_none_type": True,
        }
        settings = cls(**parsing)
    except ValidationError as error:
        raise _bad_setting(error) from error
    return settings.prepare()


def _bad_setting(error: ValidationError) -> InvalidArgument:
    violations = [Violation(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    return InvalidArgument("BAD_SETTING", f"wrong settings: {text}", violations=violations)


def _environment() -> dict[str, str]:
    """The environment without the variables of Kubernetes services and docker links."""
    variables = {name: f"{name}={value}" for name, value in os.environ.items()}
    services = {match[1] for variable in variables.values() if (match := _LINK_OF.fullmatch(variable))}
    return {
        name: os.environ[name]
        for name, variable in variables.items()
        if not any(name.startswith(one) and _OF_LINK.fullmatch(variable, len(one)) for one in services)
    }


class _SharedEnvironment(PydanticBaseSettingsSource):
    """Variables that say the same to every service (`DEEPSEEK_<FIELD>`); the service's own come first."""

    def __call__(self) -> dict[str, Any]:
        named = {field: f"DEEPSEEK_{field}".upper() for field in (*TraceSettings.model_fields, "metrics_port")}
        environment = _environment()
        return {field: environment[name] for field, name in named.items() if environment.get(name)}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: the variables are taken together."""
        raise NotImplementedError


class _TomlTable(PydanticBaseSettingsSource):
    """The service's table of the TOML file that a flag or the environment names."""

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config") or os.environ.get("DEEPSEEK_CONFIG")
        if not named:
            return {}
        service = cast(type[ServiceSettings], self.settings_cls).service
        try:
            table = tomllib.loads(read_text(Path(named))).get(service, {})
        except NotUtf8 as error:
            raise InvalidArgument("BAD_CONFIG_FILE", f"{named} {error}", field="config") from error
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                "BAD_CONFIG_FILE", f"{named} cannot be read as TOML: {error}", field="config"
            ) from error
        if not isinstance(table, dict):
            raise InvalidArgument("BAD_CONFIG_FILE", f"{named}: {service} is not a table", field="config")
        return table

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: the table is taken whole, so that unknown keys are refused."""
        raise NotImplementedError


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
