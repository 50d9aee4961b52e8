from pathlib import Path

import pytest
from pydantic import ValidationError

from common.config import StoreSettings, TraceSettings, load_settings
from common.errors import FailedPrecondition, InvalidArgument
from common.telemetry.traces import TraceTarget
from tests.harness.settings import EXAMPLE, ExampleSettings, example_settings


def test_flags_come_before_the_environment_before_the_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[example]\nport = 1\nunary_workers = 2\nmax_streams = 3\n[other]\nport = "x"\n')
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_PORT", "10")
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_UNARY_WORKERS", "20")
    settings = load_settings(ExampleSettings, ["--config", str(file), "--port", "100", "--home", str(tmp_path)])
    assert (settings.port, settings.unary_workers, settings.max_streams, settings.drain_s) == (100, 20, 3, 10)


def test_home_decides_where_state_and_store_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "mesh"))
    settings = load_settings(ExampleSettings, [])
    assert settings.home == tmp_path / "mesh"
    assert settings.state_url == f"sqlite:///{tmp_path}/mesh/state/example.db"
    assert settings.store_url == f"file://{tmp_path}/mesh/store"
    assert (tmp_path / "mesh").stat().st_mode & 0o777 == 0o700


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        example_settings(tmp_path).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--port", "65536"], "port"),
        (["--max-streams", "0"], "max_streams"),
        (["--log-level", "LOUD"], "log_level"),
        (["--registry", "nowhere"], "registry"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(flags: list[str], field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        example_settings(tmp_path, *flags)
    assert (caught.value.reason, caught.value.field) == ("BAD_SETTING", field)


def test_an_unknown_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_PROT", "1")
    with pytest.raises(InvalidArgument) as caught:
        example_settings(tmp_path)
    assert caught.value.reason == "UNKNOWN_SETTING"
    assert "DEEPSEEK_EXAMPLE_PORT" in caught.value.message


def kubernetes_variables(service: str, address: str = "10.96.0.7") -> dict[str, str]:
    """Variables that Kubernetes sets in each container for a service with ports 8001 (named grpc) and 9001 (UDP)."""
    shown = f"[{address}]" if ":" in address else address
    variables = {
        "SERVICE_HOST": address,
        "SERVICE_PORT": "8001",
        "SERVICE_PORT_GRPC": "8001",
        "SERVICE_PORT_HTTP_METRICS": "9001",
        "PORT": f"tcp://{shown}:8001",
    }
    for port, protocol in (("8001", "tcp"), ("9001", "udp")):
        name = f"PORT_{port}_{protocol.upper()}"
        variables |= {name: f"{protocol}://{shown}:{port}", f"{name}_PROTO": protocol}
        variables |= {f"{name}_PORT": port, f"{name}_ADDR": address}
    return {f"{service}_{name}": value for name, value in variables.items()}


def link_variables(service: str) -> dict[str, str]:
    """Variables that a docker link sets for a container with a range of ports and for one without ports."""
    ports = {
        "PORT": "tcp://172.17.0.5:8001",
        "PORT_8001_TCP": "tcp://172.17.0.5:8001",
        "PORT_8001_TCP_START": "tcp://172.17.0.5:8001",
        "PORT_8001_TCP_PORT_END": "8009",
        "PORT_8001_TCP_ADDR": "172.17.0.5",
    }
    variables = {"NAME": "/web/inference", "ENV_PATH": "/usr/bin:/bin", "ENV_EMPTY": "", "ENV_TEXT": "two\nlines"}
    return {f"{service}_{name}": value for name, value in (variables | ports).items()}


@pytest.mark.parametrize(
    "variables",
    [
        *map(kubernetes_variables, ("DEEPSEEK_EXAMPLE", "DEEPSEEK_EXAMPLE_METRICS", "DEEPSEEK_METRICS", "DEEPSEEK")),
        kubernetes_variables("DEEPSEEK_EXAMPLE", "fd00::7"),
        link_variables("DEEPSEEK_EXAMPLE"),
        {"DEEPSEEK_EXAMPLE_NAME": "/web/inference", "DEEPSEEK_EXAMPLE_ENV_HOME": "/root"},
    ],
    ids=["service", "its metrics", "any metrics", "prefix", "IPv6", "link", "link without ports"],
)
def test_variables_of_kubernetes_services_and_docker_links_are_no_settings(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = example_settings(tmp_path)
    assert (settings.metrics_port, load_settings(ExampleSettings, ["--home", str(tmp_path)]).port) == (None, 7999)
    assert StoreSettings.of(EXAMPLE, tmp_path).port == 0


def test_settings_count_beside_variables_of_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable in a container's own specification overrides the one of Kubernetes."""
    own = {"DEEPSEEK_EXAMPLE_PORT": "7001", "DEEPSEEK_EXAMPLE_METRICS_PORT": "9001", "DEEPSEEK_METRICS_PORT": "1"}
    variables = kubernetes_variables("DEEPSEEK_EXAMPLE") | kubernetes_variables("DEEPSEEK_EXAMPLE_METRICS") | own
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(ExampleSettings, ["--home", str(tmp_path)])
    assert (settings.port, settings.metrics_port) == (7001, 9001)


@pytest.mark.parametrize(
    "variables",
    [
        {"DEEPSEEK_EXAMPLE_SERVICE_PORT": "8001"},
        {"DEEPSEEK_EXAMPLE_SERVICE_HOST": "10.96.0.7"},
        {"DEEPSEEK_EXAMPLE_PORT": "tcp://nowhere"},
        {"DEEPSEEK_EXAMPLE_ENV_HOME": "/root"},
        {"DEEPSEEK_EXAMPLE_NAME": "web"},
        {**kubernetes_variables("DEEPSEEK_EXAMPLE"), "DEEPSEEK_EXAMPLE_SERVICE_PROT": "8001"},
        {**kubernetes_variables("DEEPSEEK_EXAMPLE"), "DEEPSEEK_EXAMPLE_MAX_STREAM": "1"},
        {**kubernetes_variables("DEEPSEEK_OTHER"), "DEEPSEEK_EXAMPLE_SERVICE_PORT": "8001"},
    ],
    ids=str,
)
def test_a_wrong_variable_is_refused_though_it_resembles_those_of_kubernetes(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument) as caught:
        load_settings(ExampleSettings, ["--home", str(tmp_path)])
    assert caught.value.reason in ("UNKNOWN_SETTING", "BAD_SETTING")


def test_an_unknown_flag_ends_with_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        example_settings(tmp_path, "--prot", "1")
    assert caught.value.code != 0
    assert "--prot" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(ExampleSettings, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in ExampleSettings.model_fields)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_a_file_is_read_as_editors_leave_it(end: str, tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_bytes(f"\ufeff# größe{end}[example]{end}max_streams = 5{end}".encode())
    assert example_settings(tmp_path, "--config", str(tmp_path / "mesh.toml")).max_streams == 5


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("[example]\nmax_streams = 5\n", encoding="utf-16")
    with pytest.raises(InvalidArgument, match=r"mesh\.toml is UTF-16; save it as UTF-8") as caught:
        example_settings(tmp_path, "--config", str(tmp_path / "mesh.toml"))
    assert (caught.value.reason, caught.value.field) == ("BAD_CONFIG_FILE", "config")


@pytest.mark.parametrize("content", ["port = ", "example = 3"])
def test_a_bad_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        example_settings(tmp_path, "--config", str(tmp_path / "bad.toml"))
    assert caught.value.reason == "BAD_CONFIG_FILE"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_anything_but_loopback_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        example_settings(tmp_path, "--host", host)
    assert (caught.value.reason, caught.value.field) == ("INSECURE_BIND", "host")


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition) as caught:
        example_settings(tmp_path / "file" / "home")
    assert (caught.value.reason, caught.value.field) == ("HOME_NOT_WRITABLE", "home")


def test_variables_without_our_prefix_mean_nothing_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "HOME", "PORT", "LOG_LEVEL"):
        monkeypatch.setenv(name, "/nonsense")
    settings = ExampleSettings(home=tmp_path)
    assert (settings.home, settings.host, settings.port) == (tmp_path, "127.0.0.1", 7999)


def test_what_a_program_sets_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_PORT", "10")
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_MAX_STREAMS", "20")
    settings = ExampleSettings(home=tmp_path, port=5)
    assert (settings.port, settings.max_streams) == (5, 20)


def test_nothing_gets_round_the_refusal_to_listen_on_a_network(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition):
        ExampleSettings(home=tmp_path, host="0.0.0.0")


@pytest.mark.parametrize("variable", ["DEEPSEEK_CONFIG", "DEEPSEEK_EXAMPLE_CONFIG"])
def test_the_environment_may_name_the_file(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mesh.toml").write_text("[example]\nmax_streams = 5\n")
    monkeypatch.setenv(variable, str(tmp_path / "mesh.toml"))
    assert example_settings(tmp_path).max_streams == 5


def test_an_unknown_key_in_the_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("[example]\nprot = 5\n")
    with pytest.raises(InvalidArgument) as caught:
        example_settings(tmp_path, "--config", str(tmp_path / "mesh.toml"))
    assert (caught.value.reason, caught.value.field) == ("BAD_SETTING", "prot")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:sekrit@h/db",
        "postgresql+psycopg://u:se#krit/sekrit?@h/db",
        "postgresql+psycopg://u@h/db?password=sekrit",
        "postgresql+psycopg://u@h/db?sslmode=require&sslpassword=sekrit",
        "postgresql+psycopg://u@h/db?passwd=sekrit",
        "postgresql+psycopg://u@h/db?x=1#&PASSWORD=sekrit",
        "postgresql+psycopg://u@h/db?oauth_client_secret=sekrit",
    ],
)
def test_a_password_in_the_state_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        example_settings(tmp_path, "--state-url", url)
    assert (caught.value.reason, caught.value.field) == ("BAD_SETTING", "state_url")
    assert "krit" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u@h/db?passfile=/run/pgpass", "sqlite:////x/a:b@c.db"])
def test_a_state_url_without_a_password_is_taken(url: str, tmp_path: Path) -> None:
    assert example_settings(tmp_path, "--state-url", url).state_url == url


def test_a_variable_for_all_processes_comes_after_the_services_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEK_TRACE_FILE", "all.jsonl")
    monkeypatch.setenv("DEEPSEEK_METRICS_PORT", "0")
    monkeypatch.setenv("DEEPSEEK_TRACE_SAMPLING", "0.5")
    monkeypatch.setenv("DEEPSEEK_EXAMPLE_TRACE_SAMPLING", "0.25")
    settings = example_settings(tmp_path)
    assert (settings.trace_file, settings.metrics_port, settings.trace_sampling) == (tmp_path / "all.jsonl", 0, 0.25)
    assert TraceSettings.load().trace_sampling == 0.5


def test_telemetry_is_off_by_default(tmp_path: Path) -> None:
    settings = example_settings(tmp_path)
    assert (settings.trace_target, settings.metrics_port) == (TraceTarget(), None)


@pytest.mark.parametrize("endpoint", ["collector:4317", "http://user:password@collector:4317"])
def test_a_collector_is_named_by_a_url_without_secrets(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_OTLP_ENDPOINT", endpoint)
    with pytest.raises(InvalidArgument) as service:
        example_settings(tmp_path)
    with pytest.raises(InvalidArgument) as command_line:
        TraceSettings.load()
    for caught in (service, command_line):
        assert (caught.value.reason, caught.value.field) == ("BAD_SETTING", "otlp_endpoint")
