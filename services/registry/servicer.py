"""RegistryService over catalogue, aliases, lineage and watermarks: protobuf to domain and back, nothing else."""

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from common.artifacts import Artifact
from common.artifacts.proto import from_proto, to_proto
from common.errors import InvalidArgument
from common.server import caller
from deepseek.data import canonical_json
from deepseek.data import manifest as data_manifest
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog, NewVersion
from services.registry.lineage import Lineage
from services.registry.pages import PageRequest
from services.registry.resources import Alias, Kind, Metric, Series, Version
from services.registry.watermarks import Watermark, Watermarks

_MANIFESTS = {Kind.DATASET: data_manifest.MEDIA_TYPE, Kind.MODEL: model_manifest.MEDIA_TYPE}
"""Media type of the manifest of each kind: what is registered as another could be read by nobody."""

_MODALITIES = {watermark_pb2.MODALITY_TEXT: "text", watermark_pb2.MODALITY_IMAGE: "image"}
_MODALITY_NUMBERS = {name: number for number, name in _MODALITIES.items()}


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Answers RegistryService; the proto documents every call.

    Args:
        catalog: Data sets, models and versions.
        aliases: Their aliases.
        lineage: What came of what.
        watermarks: What ids in marks stand for.
    """

    def __init__(self, catalog: Catalog, aliases: Aliases, lineage: Lineage, watermarks: Watermarks) -> None:
        self._catalog = catalog
        self._aliases = aliases
        self._lineage = lineage
        self._watermarks = watermarks

    def CreateDataset(
        self, request: pb.CreateDatasetRequest, context: grpc.ServicerContext
    ) -> pb.CreateDatasetResponse:
        series = self._catalog.create(
            caller(context).tenant,
            Kind.DATASET,
            request.dataset_id,
            request.description,
            method="CreateDataset",
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.CreateDatasetResponse(dataset=_dataset(series))

    def GetDataset(self, request: pb.GetDatasetRequest, context: grpc.ServicerContext) -> pb.GetDatasetResponse:
        series = self._catalog.get(caller(context).tenant, Kind.DATASET, request.name)
        return pb.GetDatasetResponse(dataset=_dataset(series))

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: grpc.ServicerContext) -> pb.ListDatasetsResponse:
        page = PageRequest(request.page_size, request.page_token)
        series, token = self._catalog.list_series(caller(context).tenant, Kind.DATASET, page)
        return pb.ListDatasetsResponse(datasets=map(_dataset, series), next_page_token=token)

    def CreateDatasetVersion(
        self, request: pb.CreateDatasetVersionRequest, context: grpc.ServicerContext
    ) -> pb.CreateDatasetVersionResponse:
        tenant = caller(context).tenant
        version, created = self._catalog.create_version(
            tenant,
            Kind.DATASET,
            request.parent,
            NewVersion(_manifest(request.manifest, tenant, Kind.DATASET), num_samples=request.num_samples),
            method="CreateDatasetVersion",
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.CreateDatasetVersionResponse(dataset_version=_dataset_version(version), created=created)

    def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: grpc.ServicerContext
    ) -> pb.GetDatasetVersionResponse:
        version = self._catalog.get_version(caller(context).tenant, Kind.DATASET, request.name)
        return pb.GetDatasetVersionResponse(dataset_version=_dataset_version(version))

    def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListDatasetVersionsResponse:
        page = PageRequest(request.page_size, request.page_token)
        versions, token = self._catalog.list_versions(caller(context).tenant, Kind.DATASET, request.parent, page)
        return pb.ListDatasetVersionsResponse(dataset_versions=map(_dataset_version, versions), next_page_token=token)

    def CreateModel(self, request: pb.CreateModelRequest, context: grpc.ServicerContext) -> pb.CreateModelResponse:
        series = self._catalog.create(
            caller(context).tenant,
            Kind.MODEL,
            request.model_id,
            request.description,
            method="CreateModel",
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.CreateModelResponse(model=_model(series))

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        series = self._catalog.get(caller(context).tenant, Kind.MODEL, request.name)
        return pb.GetModelResponse(model=_model(series))

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        page = PageRequest(request.page_size, request.page_token)
        series, token = self._catalog.list_series(caller(context).tenant, Kind.MODEL, page)
        return pb.ListModelsResponse(models=map(_model, series), next_page_token=token)

    def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: grpc.ServicerContext
    ) -> pb.CreateModelVersionResponse:
        tenant = caller(context).tenant
        version, created = self._catalog.create_version(
            tenant,
            Kind.MODEL,
            request.parent,
            NewVersion(
                _manifest(request.manifest, tenant, Kind.MODEL),
                sources=tuple(request.sources),
                metrics=tuple(Metric(metric.name, metric.value) for metric in request.metrics),
            ),
            method="CreateModelVersion",
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.CreateModelVersionResponse(model_version=_model_version(version), created=created)

    def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: grpc.ServicerContext
    ) -> pb.GetModelVersionResponse:
        version = self._catalog.get_version(caller(context).tenant, Kind.MODEL, request.name)
        return pb.GetModelVersionResponse(model_version=_model_version(version))

    def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelVersionsResponse:
        page = PageRequest(request.page_size, request.page_token)
        versions, token = self._catalog.list_versions(caller(context).tenant, Kind.MODEL, request.parent, page)
        return pb.ListModelVersionsResponse(model_versions=map(_model_version, versions), next_page_token=token)

    def SetAlias(self, request: pb.SetAliasRequest, context: grpc.ServicerContext) -> pb.SetAliasResponse:
        alias = self._aliases.set(
            caller(context).tenant,
            request.name,
            request.version,
            request.expected_version,
            method="SetAlias",
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.SetAliasResponse(alias=_alias(alias))

    def GetAlias(self, request: pb.GetAliasRequest, context: grpc.ServicerContext) -> pb.GetAliasResponse:
        return pb.GetAliasResponse(alias=_alias(self._aliases.get(caller(context).tenant, request.name)))

    def ListAliases(self, request: pb.ListAliasesRequest, context: grpc.ServicerContext) -> pb.ListAliasesResponse:
        page = PageRequest(request.page_size, request.page_token)
        aliases, token = self._aliases.list_aliases(caller(context).tenant, request.parent, page)
        return pb.ListAliasesResponse(aliases=map(_alias, aliases), next_page_token=token)

    def ListAliasHistory(
        self, request: pb.ListAliasHistoryRequest, context: grpc.ServicerContext
    ) -> pb.ListAliasHistoryResponse:
        page = PageRequest(request.page_size, request.page_token)
        moves, token = self._aliases.history(caller(context).tenant, request.name, page)
        return pb.ListAliasHistoryResponse(
            moves=(
                pb.AliasMove(from_version=move.from_version, to_version=move.to_version, time=_time(move.time_us))
                for move in moves
            ),
            next_page_token=token,
        )

    def GetLineage(self, request: pb.GetLineageRequest, context: grpc.ServicerContext) -> pb.GetLineageResponse:
        edges = self._lineage.walk(caller(context).tenant, request.name, request.depth)
        return pb.GetLineageResponse(edges=(pb.LineageEdge(source=edge.source, target=edge.target) for edge in edges))

    def CreateWatermark(
        self, request: pb.CreateWatermarkRequest, context: grpc.ServicerContext
    ) -> pb.CreateWatermarkResponse:
        watermark = self._watermarks.create(
            caller(context).tenant,
            _MODALITIES.get(request.modality, ""),
            request.model_version,
            request.key_epoch,
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.CreateWatermarkResponse(watermark=_watermark(watermark))

    def SetWatermarkContent(
        self, request: pb.SetWatermarkContentRequest, context: grpc.ServicerContext
    ) -> pb.SetWatermarkContentResponse:
        watermark = self._watermarks.set_content(
            caller(context).tenant, request.name, request.content_sha256, request.content_size_bytes
        )
        return pb.SetWatermarkContentResponse(watermark=_watermark(watermark))

    def GetWatermark(self, request: pb.GetWatermarkRequest, context: grpc.ServicerContext) -> pb.GetWatermarkResponse:
        return pb.GetWatermarkResponse(watermark=_watermark(self._watermarks.get(caller(context).tenant, request.name)))

    def ListWatermarks(
        self, request: pb.ListWatermarksRequest, context: grpc.ServicerContext
    ) -> pb.ListWatermarksResponse:
        watermarks, token = self._watermarks.list_watermarks(
            caller(context).tenant,
            PageRequest(request.page_size, request.page_token),
            content_sha256=request.content_sha256,
            model_version=request.model_version,
        )
        return pb.ListWatermarksResponse(watermarks=map(_watermark, watermarks), next_page_token=token)


def _manifest(message: artifact_pb2.Artifact, tenant: str, kind: Kind) -> Artifact:
    """Raises: InvalidArgument: It cannot be the manifest of a version of this kind."""
    manifest = from_proto(message, tenant=tenant, field="manifest")
    if manifest.media_type != _MANIFESTS[kind]:
        text = f"is {manifest.media_type}; the manifest of a {kind.title} is {_MANIFESTS[kind]}"
        raise InvalidArgument("WRONG_MEDIA_TYPE", text, field="manifest.media_type")
    if manifest.size_bytes > canonical_json.MAX_BYTES:
        text = f"is {manifest.size_bytes} bytes; a manifest has at most {canonical_json.MAX_BYTES}"
        raise InvalidArgument("TOO_LARGE", text, field="manifest.size_bytes")
    return manifest


def _body(request: Message) -> bytes:
    return request.SerializeToString(deterministic=True)


def _time(time_us: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(time_us)
    return timestamp


def _dataset(series: Series) -> pb.Dataset:
    return pb.Dataset(name=series.name, description=series.description, create_time=_time(series.create_us))


def _model(series: Series) -> pb.Model:
    return pb.Model(name=series.name, description=series.description, create_time=_time(series.create_us))


def _dataset_version(version: Version) -> pb.DatasetVersion:
    assert version.num_samples is not None
    return pb.DatasetVersion(
        name=version.name,
        manifest=to_proto(version.manifest),
        num_samples=version.num_samples,
        create_time=_time(version.create_us),
    )


def _model_version(version: Version) -> pb.ModelVersion:
    return pb.ModelVersion(
        name=version.name,
        manifest=to_proto(version.manifest),
        sources=version.sources,
        metrics=(pb.Metric(name=metric.name, value=metric.value) for metric in version.metrics),
        create_time=_time(version.create_us),
    )


def _alias(alias: Alias) -> pb.Alias:
    return pb.Alias(name=alias.name, version=alias.version, update_time=_time(alias.update_us))


def _watermark(watermark: Watermark) -> pb.Watermark:
    return pb.Watermark(
        name=watermark.name,
        modality=_MODALITY_NUMBERS[watermark.modality],
        model_version=watermark.model_version,
        key_epoch=watermark.key_epoch,
        content_sha256=watermark.content_sha256,
        content_size_bytes=watermark.content_size_bytes,
        create_time=_time(watermark.create_us),
    )
