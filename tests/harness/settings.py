"""Settings of a service that exists only in tests."""

from pathlib import Path

from common.auth import Role
from common.config import ServiceSettings, StoreSettings, load_settings, settings_for
from common.service import Service, Uses, catalogue

CALLEE = Service(name="registry", contract="deepseek.registry.v1.RegistryService", port=7001, metrics_port=9001)
EXAMPLE = Service(
    name="example",
    contract="deepseek.example.v1.ExampleService",
    port=7999,
    metrics_port=9999,
    calls={"registry": Role.WRITER},
    uses=frozenset({Uses.STORE}),
    resources=("upload",),
    parents=("dataset",),
)
CALLED = Service(
    name="example",
    contract="deepseek.example.v1.ExampleService",
    port=7999,
    metrics_port=9999,
    calls={"registry": Role.WRITER},
    grants={"trainer": Role.WRITER},
    uses=frozenset({Uses.STORE}),
)


@settings_for(catalogue(CALLEE, EXAMPLE), "example")
class ExampleSettings(StoreSettings):
    """A service with a store, which calls the registry."""


@settings_for(catalogue(CALLEE, CALLED), "example")
class CalledSettings(StoreSettings):
    """The same service, which the trainer may call."""


def example_settings(home: Path, *flags: str, cls: type[ServiceSettings] = ExampleSettings) -> ServiceSettings:
    return load_settings(cls, ["--home", str(home), "--port", "0", *flags])
