"""Every method of a real mesh x every way of having no business there, generated from the contracts."""

import importlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.auth import TENANT_HEADER, Identity, Role
from common.auth.access import role_of_methods
from common.auth.certificates import make_authority
from common.auth.tokens import AUDIENCE, ISSUER, issue_token
from common.channel import open_channel
from common.contracts import find_service
from common.errors import NotFound
from deepseek.client import Mesh, MeshFile
from deepseek.client.runs import parse_spec
from deepseek.embedded import PORTS, Access, start_mesh
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE, ModelFile, ModelManifest, TensorSpec
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2
from tests.services.inference.models import scale_model
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures
from tests.services.watermark.pictures import PNG

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
OPEN_TO_ALL = "grpc.health.v1."
REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@dataclass(frozen=True)
class Method:
    """A method as a server offers it.

    Attributes:
        service: The mesh's service that hosts it, e.g. `ingest`.
        path: What gRPC calls, e.g. `/deepseek.job.v1.JobService/GetJob`.
        role: The least role.
        kind: Of grpc's functions, e.g. `unary_stream`.
    """

    service: str
    path: str
    role: Role
    kind: str

    def call(self, channel: grpc.Channel, request: bytes, metadata: Sequence[tuple[str, str]] = ()) -> bytes:
        """The answer, or the first of several; empty if a stream has none."""
        method = getattr(channel, self.kind)(self.path)
        argument = iter([request]) if self.kind.startswith("stream") else request
        answer = method(argument, timeout=30, metadata=metadata)
        return bytes(answer) if self.kind.endswith("unary") else bytes(next(answer, b""))


@dataclass(frozen=True)
class Site:
    """A mesh with an authority.

    Attributes:
        file: Where it is.
        folder: Of the authority.
        methods: Everything that its servers offer.
    """

    file: MeshFile
    folder: Path
    methods: Sequence[Method]

    def token(self, role: Role, tenant: str = "lab") -> str:
        key = self.folder / "signing" / "key.pem"
        return issue_token(key, "ana", tenant=tenant, role=role, lifetime_s=3600)

    def channel(self, service: str, identity: Path) -> grpc.Channel:
        """A channel as any gRPC library opens it."""
        return grpc.secure_channel(self.file.services[service].address, Identity(identity).channel_credentials())

    def client(self, role: Role, tenant: str, folder: Path) -> Mesh:
        path = folder / f"{tenant}-{role}"
        path.write_text(self.token(role, tenant), encoding="ascii")
        return Mesh(MeshFile(self.file.services, self.file.store, str(self.folder / "cli"), str(path)))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def import_contracts() -> list[str]:
    """Makes every contract's descriptors known; returns the full names of all gRPC services."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "protos").rglob("*.proto")]
    files = [importlib.import_module(".".join(path.parts) + "_pb2").DESCRIPTOR for path in paths]
    return [service.full_name for file in files for service in file.services_by_name.values()]


def offered(file: MeshFile, service: str, token_file: Path) -> Iterator[Method]:
    """What a server says itself that it offers."""
    with open_channel(file.services[service].address, identity=Path(file.identity), token_file=token_file) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        names = [one.name for one in next(stub.ServerReflectionInfo(iter([request]))).list_services_response.service]
    for name in names:
        if not name.startswith(OPEN_TO_ALL):
            yield from methods_of(service, name)


def methods_of(service: str, name: str) -> Iterator[Method]:
    """The methods of a gRPC service by its contract."""
    roles = role_of_methods([] if name.startswith("grpc.") else [name])
    for method in find_service(name).methods:
        kind = "_".join(
            "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
        )
        path = f"/{name}/{method.name}"
        yield Method(service, path, roles.get(path, Role.PREDICTOR), kind)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("access")
    folder = home / "identity"
    make_authority(folder, list(PORTS))
    token_file = home / "token"
    token_file.write_text(
        issue_token(folder / "signing" / "key.pem", "ana", tenant="lab", role=Role.ADMIN, lifetime_s=3600)
    )
    mesh = start_mesh(home / "home", stay=False, free_ports=True, access=Access(folder, token_file))
    import_contracts()
    try:
        methods = [method for service in PORTS for method in offered(mesh.file, service, token_file)]
        yield Site(mesh.file, folder, methods)
    finally:
        mesh.stop()


def forged(site: Site, **changes: Any) -> str:
    """A token that the mesh's own key has signed, with other claims."""
    token = site.token(Role.ADMIN)
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    key = load_pem_private_key((site.folder / "signing" / "key.pem").read_bytes(), None)
    return jwt.encode(claims, key, "EdDSA", headers={"kid": jwt.get_unverified_header(token)["kid"]})


Attempt = Callable[[Site, Method], tuple[str, tuple[tuple[str, str], ...]]]
"""Whose certificate is shown, and what is said."""


def with_lower_role(site: Site, method: Method) -> tuple[str, tuple[tuple[str, str], ...]]:
    lower = [role for role in Role if role < method.role]
    # There is no role below the lowest; a token with none at all stands for it.
    return "cli", bearer(site.token(lower[-1]) if lower else forged(site, role=""))


ATTEMPTS: dict[str, Attempt] = {
    "a user certificate without token": lambda site, method: ("cli", ()),
    "the edge without token": lambda site, method: ("edge", ()),
    "expired": lambda site, method: ("cli", bearer(forged(site, iat=1000, exp=2000))),
    "wrong audience": lambda site, method: ("cli", bearer(forged(site, aud="another"))),
    "wrong issuer": lambda site, method: ("cli", bearer(forged(site, iss="another"))),
    "wrong role": with_lower_role,
    "forged identity header": lambda site, method: (
        "edge",
        (*bearer(site.token(Role.ADMIN)), (TENANT_HEADER, "default")),
    ),
    "identity header instead of a token": lambda site, method: ("cli", ((TENANT_HEADER, "lab"),)),
    "a service without tenant": lambda site, method: ("trainer", bearer(site.token(Role.ADMIN))),
    "a service that has no business there": lambda site, method: (method.service, ((TENANT_HEADER, "lab"),)),
}


def test_the_servers_offer_what_the_contracts_say(site: Site) -> None:
    assert ISSUER == AUDIENCE
    assert {method.service for method in site.methods} == set(PORTS)
    assert len(site.methods) >= 40


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_method_refuses(site: Site, attempt: str) -> None:
    holes = []
    for service in PORTS:
        channels = {name: site.channel(service, site.folder / name) for name in ("cli", "edge", *PORTS)}
        for method in site.methods:
            if method.service != service:
                continue
            name, metadata = ATTEMPTS[attempt](site, method)
            try:
                method.call(channels[name], b"", metadata)
                holes.append(f"{method.path} answered")
            except grpc.RpcError as error:
                if error.code() not in REFUSED:
                    holes.append(f"{method.path}: {error.code().name} {error.details()}")
        for channel in channels.values():
            channel.close()
    assert not holes


def test_every_method_lets_in_who_may(site: Site) -> None:
    wrong = []
    for service in PORTS:
        with site.channel(service, site.folder / "cli") as channel:
            for method in site.methods:
                if method.service != service:
                    continue
                try:
                    method.call(channel, b"", bearer(site.token(method.role)))
                except grpc.RpcError as error:
                    if error.code() in (*REFUSED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                        wrong.append(f"{method.path}: {error.code().name} {error.details()}")
    assert not wrong


def test_without_a_certificate_there_is_no_connection(site: Site) -> None:
    for service in PORTS:
        address = site.file.services[service].address
        trusting = grpc.ssl_channel_credentials((site.folder / "ca.pem").read_bytes())
        for channel in (grpc.secure_channel(address, trusting), grpc.insecure_channel(address)):
            with channel, pytest.raises(grpc.RpcError) as caught:
                site.methods[0].call(channel, b"", bearer(site.token(Role.ADMIN)))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    host, _, port = site.file.services["registry"].address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert b"SETTINGS" not in plain.recv(100)


@pytest.fixture(scope="module")
def requests(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    with site.client(Role.ADMIN, "lab", tmp_path_factory.mktemp("lab")) as mesh:
        version = mesh.datasets.upload("d", PICTURE_FIELDS, pictures(8, 4)).name
        registry = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry"))
        manifest = to_proto(publish(mesh, version))
        request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=manifest, sources=[version])
        model_version = registry.CreateModelVersion(request).model_version
        mesh.models.set_alias("m", "prod", model_version.name)
        mesh.inference.load("m")
        run, _ = mesh.runs.submit(picture_spec(version, epochs=1, num_workers=1))
        mesh.runs.wait(run.name)
        return requests_about(mesh, version, model_version, run.name)


def requests_about(
    mesh: Mesh, version: str, model_version: registry_pb2.ModelVersion, run: str
) -> dict[str, dict[str, Any]]:
    """For each method that names something a request that names what a tenant has, by the method's name.

    Args:
        mesh: A client of the tenant's.
        version: Name of a version of a data set.
        model_version: The version that their alias `prod` stands for and that is served.
        run: Name of a run.
    """
    dataset, model = version.partition("/versions/")[0], model_version.name.partition("/versions/")[0]
    model_id, manifest = model.removeprefix("models/"), model_version.manifest
    upload = ingest_pb2_grpc.IngestServiceStub(mesh.channel("ingest")).CreateUpload(
        ingest_pb2.CreateUploadRequest(
            dataset=dataset,
            schema=ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="n", type=ingest_pb2.FIELD_TYPE_INTEGER)]),
        )
    )
    jobs = {
        service: job_pb2_grpc.JobServiceStub(mesh.channel(service)).ListJobs(job_pb2.ListJobsRequest()).jobs[0].name
        for service in ("ingest", "trainer")
    }
    registry = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry"))
    made_by = registry_pb2.CreateWatermarkRequest(
        modality=watermark_pb2.MODALITY_IMAGE, model_version=model_version.name
    )
    mark = registry.CreateWatermark(made_by).watermark.name
    return {
        "GetDataset": {"name": dataset},
        "GetDatasetVersion": {"name": version},
        "ListDatasetVersions": {"parent": dataset},
        "GetModel": {"name": model},
        "CreateModelVersion": {"parent": "models/n", "manifest": manifest, "sources": [version]},
        "GetModelVersion": {"name": model_version.name},
        "ListModelVersions": {"parent": model},
        "SetAlias": {"name": f"{model}/aliases/mine", "version": model_version.name},
        "GetAlias": {"name": f"{model}/aliases/prod"},
        "ListAliases": {"parent": model},
        "ListAliasHistory": {"name": f"{model}/aliases/prod"},
        "GetLineage": {"name": model_version.name},
        "CreateWatermark": {"modality": made_by.modality, "model_version": model_version.name},
        "SetWatermarkContent": {"name": mark, "content_sha256": manifest.sha256, "content_size_bytes": 1},
        "GetWatermark": {"name": mark},
        "MarkImage": {"image": PNG, "model_version": model_version.name},
        "MarkTokens": {"config": {"model_version": model_version.name}},
        "GetUpload": {"name": upload.upload.name},
        "UploadSamples": {"upload": upload.upload.name},
        "CommitUpload": {"name": upload.upload.name},
        "DeleteUpload": {"name": upload.upload.name},
        "ReadSamples": {"dataset_version": version},
        "ReadArtifact": {"sha256": manifest.sha256},
        "SubmitRun": {"spec": parse_spec(picture_spec(version))},
        "GetRun": {"name": run},
        "WatchRun": {"name": run},
        "StopRun": {"name": run},
        "ExportModel": {"run": run, "model": "models/stolen"},
        "ModelMetadata": {"name": model_id},
        "ModelInfer": {"model_name": model_id},
        "RepositoryModelLoad": {"model_name": model_id},
        **{f"{method}@{service}": {"name": jobs[service]} for service in jobs for method in JOB_METHODS},
    }


JOB_METHODS = ("GetJob", "CancelJob", "WatchJob")


def publish(mesh: Mesh, dataset_version: str) -> Artifact:
    """Puts a model into the store of the client's tenant, as an export does; returns its manifest."""
    file = mesh.store.put(mesh.tenant, scale_model(2), ONNX_MEDIA_TYPE)
    manifest = ModelManifest(
        model="test",
        run="runs/test",
        dataset_version=dataset_version,
        files=(ModelFile("model.onnx", "fp32", file.sha256, file.size_bytes),),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
    )
    return mesh.store.put(mesh.tenant, manifest.to_bytes(), MEDIA_TYPE)


LISTS = {"ListDatasets", "ListModels", "ListJobs", "ListRuns", "RepositoryIndex", "ListUploads", "ListWatermarks"}
"""These name nothing; another tenant's answer has to be empty."""

UNKNOWN = {"CreateModelVersion": grpc.StatusCode.INVALID_ARGUMENT}
"""What answers a source that does not exist; all else is NOT_FOUND."""

NAMES_NOTHING = {
    "CreateDataset": "makes something of the caller's own",
    "CreateDatasetVersion": "makes something of the caller's own",
    "CreateModel": "makes something of the caller's own",
    "CreateUpload": "makes something of the caller's own",
    "DetectImage": "looks by the caller's own keys",
    "DetectImages": "looks by the caller's own keys",
    "DetectText": "looks by the caller's own keys",
    "DetectTexts": "looks by the caller's own keys",
    "ListKeys": "counts the caller's own keys, of which the first comes by itself",
    "MarkImages": "tells of each image what MarkImage does",
    "ModelReady": "answers false for what is unknown",
    "RepositoryModelUnload": "unloads what the caller has, if anything",
    "RevokeKey": "counts the caller's own keys",
    "RotateKey": "makes something of the caller's own",
    "ServerLive": "is about the server",
    "ServerMetadata": "is about the server",
    "ServerReady": "is about the server",
    "ServerReflectionInfo": "is about the contracts",
}


def of_another_tenant(
    methods: Sequence[Method], requests: dict[str, dict[str, Any]]
) -> Iterator[tuple[Method, bytes, bytes | grpc.StatusCode]]:
    """Each method with a request that names another tenant's, and what has to come of it."""
    for method in methods:
        name = method.path.rpartition("/")[2]
        fields = requests.get(name) or requests.get(f"{name}@{method.service}")
        # An operator's methods are about the mesh itself, and of all tenants.
        if name in NAMES_NOTHING or method.role is Role.OPERATOR:
            continue
        assert fields or name in LISTS, f"say what {method.path} can name of another tenant's"
        request = messages_of(method)[0](**fields or {}).SerializeToString()
        yield method, request, b"" if name in LISTS else UNKNOWN.get(name, grpc.StatusCode.NOT_FOUND)


def test_another_tenant_finds_nothing(site: Site, requests: dict[str, dict[str, Any]]) -> None:
    wrong = []
    channels = {service: site.channel(service, site.folder / "cli") for service in PORTS}
    for method, request, missing in of_another_tenant(site.methods, requests):
        theirs, own = (
            outcome(method, channels[method.service], request, bearer(site.token(Role.ADMIN, tenant)))
            for tenant in ("other", "lab")
        )
        if theirs != missing or own == missing:
            wrong.append(f"{method.path}: {theirs!r} for another, {own!r} for its own")
    for channel in channels.values():
        channel.close()
    assert not wrong


def test_another_tenants_calls_change_nothing(site: Site, requests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with site.client(Role.ADMIN, "other", tmp_path) as other, site.client(Role.ADMIN, "lab", tmp_path) as mesh:
        with suppress(NotFound):
            other.inference.unload("m")
        assert mesh.inference.metadata("m").name == "m"
        other.datasets.upload("d", PICTURE_FIELDS, pictures(4, 4))
        assert [version.name for version in mesh.datasets.versions("d")] == [requests["GetDatasetVersion"]["name"]]


def messages_of(method: Method) -> tuple[Any, Any]:
    """Classes of a method's request and response."""
    service, _, name = method.path[1:].partition("/")
    descriptor = find_service(service).methods_by_name[name]
    return tuple(map(message_factory.GetMessageClass, (descriptor.input_type, descriptor.output_type)))


def outcome(
    method: Method, channel: grpc.Channel, request: bytes, metadata: Sequence[tuple[str, str]]
) -> bytes | grpc.StatusCode:
    """The answer, or why there is none."""
    try:
        return method.call(channel, request, metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
