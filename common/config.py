"""Settings of the services: frozen, validated once at start, and then passed to the code that needs them.

Flags take precedence over environment variables (`DEEPSEEK_<SERVICE>_<FIELD>`), which take precedence over a TOML file,
which takes precedence over the defaults. Only this module reads settings from the environment, through
pydantic-settings and `common.environment`. A setting never contains a secret, only the path of a file with the secret.
"""

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast
from urllib.parse import parse_qsl, quote

from pydantic import Field, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from common.auth.identity import LEEWAY_S
from common.environment import home, variables
from common.errors import FailedPrecondition, InvalidArgument, Violation
from common.service import Service, Uses
from common.telemetry.traces import DEFAULT_SAMPLING, TraceTarget
from common.text_files import NotUtf8, read_text

S = TypeVar("S", bound="ServiceSettings")
Port = Annotated[int, Field(description="Port to listen on; 0 means any free port", ge=0, le=65535)]
Address = Annotated[
    str, Field(description="host:port of another service", pattern=r"^[^:/\s]+:\d{1,5}$|^\[.+\]:\d{1,5}$")
]

# Follows SQLAlchemy, which accepts `/`, `?` and `#` in a password; in a standard URL, these would end the host.
_PASSWORD = re.compile(r"[\w+]+://[^:/]*:[^@]+@")
MAX_JOBS_PER_TENANT = 100
"""Default limit on the number of pending and running jobs per tenant."""

_SECRET_PARAMETER = re.compile(r"pass(?!file$)|pwd|secret|scram_\w+_key", re.IGNORECASE)


class TraceSettings(BaseSettings):
    """Settings for the export of spans, shared by the command line and all processes of a mesh."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True, env_prefix="DEEPSEEK_")

    trace_file: Path | None = Field(
        None, description="File to which spans are appended as OTLP/JSON; processes may share it"
    )
    otlp_endpoint: str = Field(
        "",
        description="http(s)://host:port of a collector that accepts OTLP over gRPC",
        pattern=r"^(https?://[^\s/@]+)?$",
    )
    trace_sampling: float = Field(
        DEFAULT_SAMPLING, description="Fraction to record of the traces that do not come from a caller", ge=0, le=1
    )

    @field_validator("trace_file")
    @classmethod
    def _make_absolute(cls, path: Path | None) -> Path | None:
        return path.absolute() if path else None

    @property
    def trace_target(self) -> TraceTarget:
        """The destination of spans."""
        return TraceTarget(self.trace_file, self.otlp_endpoint)

    @classmethod
    def load(cls) -> Self:
        """Returns the settings, read from the environment only.

        Raises:
            InvalidArgument: BAD_SETTING.
        """
        try:
            return cls()  # type: ignore[call-arg]  # without pydantic's plugin, mypy does not know the defaults
        except ValidationError as error:
            raise _bad_setting(error) from error


class ServiceSettings(TraceSettings):
    """The settings that all services have. `settings_for` adds the settings that a service's declaration implies."""

    service: ClassVar[Service]

    host: str = Field("127.0.0.1", description="Address to listen on; without an identity, loopback only")
    port: Port = 0
    home: Path = Field(default_factory=home, description="Directory of state, store and caches; created if missing")
    state_url: str = Field("", description="SQLAlchemy URL of the state; default: an SQLite file in home")
    identity: Path | None = Field(
        None,
        description="Folder with ca.pem, cert.pem, key.pem and jwks.json (`deepseek certs`), for TLS and tokens",
    )
    token_leeway_s: float = Field(
        LEEWAY_S, description="Accepted clock skew of a token's issuer, seconds", ge=0, le=300
    )
    max_message_bytes: int = Field(64 << 20, description="Maximum size of a message, bytes", gt=0)
    unary_workers: int = Field(8, description="Threads for unary calls", gt=0)
    max_streams: int = Field(32, description="Concurrent streams; more are refused", gt=0)
    max_streams_per_caller: int = Field(16, description="Concurrent streams per user", gt=0)
    max_streams_per_tenant: int = Field(24, description="Concurrent streams per tenant", gt=0)
    rate: float = Field(5000, description="Average number of calls per second and user", gt=0)
    burst: int = Field(10_000, description="Number of calls per user in one burst", gt=0)
    deadline_s: float = Field(30, description="Deadline of calls without one, and of calls to other services", gt=0)
    drain_s: float = Field(10, description="Seconds for accepted calls to finish after SIGTERM", ge=0)
    lame_duck_s: float = Field(
        0, description="Seconds after SIGTERM in which a server reports not ready but answers, for load balancers", ge=0
    )
    address_file: Path | None = Field(None, description="File to which the bound address is written, as JSON")
    parent_pid: int | None = Field(None, description="Process id; the service exits when this process ends", gt=0)
    metrics_port: int | None = Field(
        None, description="Port of the metrics for Prometheus, over HTTP; 0 means any free port", ge=0, le=65535
    )
    audit_head: bool = Field(False, description="Print the anchored head of the audit log as JSON and exit")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    config: Path | None = Field(None, description="TOML file; the table named after the service contains its settings")

    @model_validator(mode="before")
    @classmethod
    def _fill_places(cls, values: Any) -> Any:
        place = Path(values.get("home") or home()).absolute()
        state = place / "state" / f"{cls.service.name}.db"
        return {
            **values,
            "home": place,
            "state_url": values.get("state_url") or f"sqlite:///{quote(str(state))}",
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
        """Returns the sources, highest precedence first. pydantic-settings puts command-line flags ahead of them."""
        own = cast(EnvSettingsSource, env_settings)
        kept = {name.lower() for name in variables()}
        own.env_vars = {name: value for name, value in own.env_vars.items() if name.lower() in kept}
        return init_settings, own, _SharedEnvironment(settings_cls), _TomlTable(settings_cls)

    @classmethod
    def variable(cls, field: str) -> str:
        """Returns the name of a setting's environment variable."""
        return f"DEEPSEEK_{cls.service.name}_{field}".upper()

    @model_validator(mode="after")
    def _listen_on_loopback(self) -> Self:
        if not self.identity and not _is_loopback(self.host):
            raise FailedPrecondition(
                "INSECURE_BIND",
                f"{self.host} is not a loopback address; without an identity, which provides TLS and authentication, a "
                "service may listen only on loopback. Use 127.0.0.1, or create an identity (`deepseek certs init`)",
                field="host",
            )
        return self

    @property
    def audit_file(self) -> Path:
        """Path of the audit log."""
        return self.home / "audit" / f"{self.service.name}.jsonl"

    @field_validator("state_url")
    @classmethod
    def _refuse_passwords(cls, url: str) -> str:
        parameters = parse_qsl(url.partition("?")[2], keep_blank_values=True)
        if _PASSWORD.match(url) or any(_SECRET_PARAMETER.search(name) for name, _ in parameters):
            raise ValueError(
                "contains a password; move it to a PostgreSQL password file and add ?passfile=/path/to/file"
            )
        return url

    def prepare(self) -> Self:
        """Creates the home and state directories, accessible only to their owner.

        Raises:
            FailedPrecondition: HOME_NOT_WRITABLE.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.home / "state").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            message = f"the home directory {self.home} cannot be created or written: {error.strerror}"
            raise FailedPrecondition("HOME_NOT_WRITABLE", message, field="home") from error
        return self


class StoreSettings(ServiceSettings):
    """The settings of a service that uses the artifact store."""

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
    def of(cls, service: Service, place: Path) -> "StoreSettings":
        """Returns the store settings that a service would have if it were started with this process's environment.

        Args:
            service: Declaration of the service.
            place: The service's home directory.
        """

        class Settings(cls):  # type: ignore[misc, valid-type]  # a separate class for each service
            pass

        settings: StoreSettings = _declared(Settings, service)(home=place)
        return settings


class JobSettings(ServiceSettings):
    """The settings of a service that runs jobs."""

    max_jobs_per_tenant: int = Field(
        MAX_JOBS_PER_TENANT, description="Pending and running jobs per tenant; more are refused", gt=0
    )


def settings_for(services: Mapping[str, Service], name: str) -> Callable[[type[S]], type[S]]:
    """Returns a decorator that adds to a settings class the settings implied by the service's declaration.

    These are the service's port, the address of each service that it calls, and the settings of the parts of the mesh
    that it uses.

    Args:
        services: Declarations of all services, keyed by name.
        name: Name of the service.
    """
    service = services[name]
    parts = {Uses.STORE: StoreSettings, Uses.JOBS: JobSettings}

    def decorate(own: type[S]) -> type[S]:
        fields: dict[str, Any] = {"port": (Port, service.port)}
        for callee in service.calls:
            default = f"127.0.0.1:{services[callee].port}"
            fields[callee] = (Address, Field(default, description=f"host:port of the {callee} service"))
        bases: Any = (own, *(part for use, part in parts.items() if use in service.uses))
        fields |= {"__base__": bases, "__module__": own.__module__, "__doc__": own.__doc__}
        made: type[S] = create_model(own.__name__, **fields)
        return _declared(made, service)

    return decorate


def _declared(cls: type[S], service: Service) -> type[S]:
    cls.service = service
    cls.model_config["env_prefix"] = cls.variable("")
    return cls


def load_settings(cls: type[S], argv: Sequence[str] | None = None) -> S:
    """Returns the settings of a service. With `--help`, prints all settings and exits.

    Args:
        cls: Class of the settings.
        argv: Flags; None means the arguments of this process.

    Raises:
        InvalidArgument: BAD_CONFIG_FILE; or BAD_SETTING or UNKNOWN_SETTING, with a list of all settings at fault.
        FailedPrecondition: HOME_NOT_WRITABLE; or INSECURE_BIND if the host is not loopback and there is no identity.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    prefix = cls.variable("")
    ours = [name for name in variables() if name.startswith(prefix)]
    unknown = [name for name in ours if name.removeprefix(prefix).lower() not in cls.model_fields]
    if unknown:
        known = ", ".join(map(cls.variable, cls.model_fields))
        violations = [Violation(name, "is not a setting of this service") for name in unknown]
        message = f"unknown settings: {', '.join(unknown)}; the known settings are {known}"
        raise InvalidArgument("UNKNOWN_SETTING", message, violations=violations)
    try:
        parsing: dict[str, Any] = {
            "_cli_parse_args": flags,
            "_cli_prog_name": f"python -m services.{cls.service.name}",
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
    return InvalidArgument("BAD_SETTING", f"invalid settings: {text}", violations=violations)


class _SharedEnvironment(PydanticBaseSettingsSource):
    """Reads variables that apply to all services, `DEEPSEEK_<FIELD>`. A service's own variables take precedence."""

    def __call__(self) -> dict[str, Any]:
        named = {field: f"DEEPSEEK_{field}".upper() for field in (*TraceSettings.model_fields, "metrics_port")}
        environment = variables()
        return {field: environment[name] for field, name in named.items() if environment.get(name)}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: `__call__` reads all variables at once."""
        raise NotImplementedError


class _TomlTable(PydanticBaseSettingsSource):
    """Reads the service's table in a TOML file. A flag or the environment specifies the path of the file."""

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config") or os.environ.get("DEEPSEEK_CONFIG")
        if not named:
            return {}
        service = cast(type[ServiceSettings], self.settings_cls).service.name
        try:
            table = tomllib.loads(read_text(Path(named))).get(service, {})
        except NotUtf8 as error:
            raise InvalidArgument("BAD_CONFIG_FILE", f"{named} {error}", field="config") from error
        except (OSError, ValueError) as error:
            message = f"{named} cannot be read as TOML: {error}"
            raise InvalidArgument("BAD_CONFIG_FILE", message, field="config") from error
        if not isinstance(table, dict):
            message = f"{named}: {service} is not a table; write it as [{service}]"
            raise InvalidArgument("BAD_CONFIG_FILE", message, field="config")
        return table

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Never called: `__call__` returns the whole table, so that unknown keys in it are rejected."""
        raise NotImplementedError


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
