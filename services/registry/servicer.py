"""The gRPC service RegistryService. Its watermark RPCs and Delete RPCs are in modules of their own."""

import grpc

from common.artifacts import Artifact
from common.artifacts.proto import from_proto, to_proto
from common.database import PageRequest
from common.errors import InvalidArgument
from common.proto import repeatable, timestamp
from common.server import caller
from deepseek.data import canonical_json
from deepseek.data import manifest as data_manifest
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2 as pb
from services.registry import codec
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog, NewVersion
from services.registry.deletion import Deletions
from services.registry.deletion_servicer import DeletionServicer
from services.registry.lineage import Lineage
from services.registry.resources import Alias, Kind, Metric, Series, Version
from services.registry.watermark_servicer import WatermarkServicer
from services.registry.watermarks import Watermarks

_MANIFESTS = {Kind.DATASET: data_manifest.MEDIA_TYPE, Kind.MODEL: model_manifest.MEDIA_TYPE}
"""Media type of the manifest of each kind of series. Clients could not read a manifest of another type."""


class RegistryServicer(DeletionServicer, WatermarkServicer):
    """Implements RegistryService; the proto documents every RPC.

    Args:
        catalog: Data sets, models and their versions.
        aliases: Aliases of data set and model versions.
        lineage: Lineage of data set and model versions.
        watermarks: Watermarks, identified by the ids that marks carry.
        deletions: Deletes data sets, models, versions and aliases.
    """

    def __init__(
        self, catalog: Catalog, aliases: Aliases, lineage: Lineage, watermarks: Watermarks, deletions: Deletions
    ) -> None:
        WatermarkServicer.__init__(self, watermarks)
        DeletionServicer.__init__(self, deletions)
        self._catalog = catalog
        self._aliases = aliases
        self._lineage = lineage

    def CreateDataset(
        self, request: pb.CreateDatasetRequest, context: grpc.ServicerContext
    ) -> pb.CreateDatasetResponse:
        series = self._catalog.create(
            caller(context).tenant,
            Kind.DATASET,
            request.dataset_id,
            request.description,
            repeatable("CreateDataset", request, request.request_id),
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
            NewVersion(
                _manifest(request.manifest, tenant, Kind.DATASET),
                num_samples=request.num_samples,
                sources=tuple(request.sources),
            ),
            repeatable("CreateDatasetVersion", request, request.request_id),
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
            repeatable("CreateModel", request, request.request_id),
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
                privacy=codec.from_proto(request.privacy) if request.HasField("privacy") else None,
            ),
            repeatable("CreateModelVersion", request, request.request_id),
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
            repeatable("SetAlias", request, request.request_id),
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
                pb.AliasMove(from_version=move.from_version, to_version=move.to_version, time=timestamp(move.time_us))
                for move in moves
            ),
            next_page_token=token,
        )

    def GetLineage(self, request: pb.GetLineageRequest, context: grpc.ServicerContext) -> pb.GetLineageResponse:
        tenant = caller(context).tenant
        edges = self._lineage.walk(tenant, request.name, request.depth)
        guarantees = self._lineage.guarantees(tenant, edges)
        return pb.GetLineageResponse(
            edges=(pb.LineageEdge(source=edge.source, target=edge.target) for edge in edges),
            guarantees=(
                pb.VersionGuarantee(version=name, privacy=codec.to_proto(guarantee))
                for name, guarantee in guarantees.items()
            ),
        )


def _manifest(message: artifact_pb2.Artifact, tenant: str, kind: Kind) -> Artifact:
    """Converts and returns a manifest. Raises InvalidArgument if no version of this kind can have such a manifest."""
    manifest = from_proto(message, tenant=tenant, field="manifest")
    if manifest.media_type != _MANIFESTS[kind]:
        text = f"the media type is {manifest.media_type}; the manifest of a {kind.title} must have {_MANIFESTS[kind]}"
        raise InvalidArgument("WRONG_MEDIA_TYPE", text, field="manifest.media_type")
    if manifest.size_bytes > canonical_json.MAX_BYTES:
        text = f"the manifest has {manifest.size_bytes} bytes; at most {canonical_json.MAX_BYTES} are accepted"
        raise InvalidArgument("TOO_LARGE", text, field="manifest.size_bytes")
    return manifest


def _dataset(series: Series) -> pb.Dataset:
    return pb.Dataset(name=series.name, description=series.description, create_time=timestamp(series.create_us))


def _model(series: Series) -> pb.Model:
    return pb.Model(name=series.name, description=series.description, create_time=timestamp(series.create_us))


def _dataset_version(version: Version) -> pb.DatasetVersion:
    assert version.num_samples is not None
    return pb.DatasetVersion(
        name=version.name,
        manifest=to_proto(version.manifest),
        num_samples=version.num_samples,
        create_time=timestamp(version.create_us),
        sources=version.sources,
    )


def _model_version(version: Version) -> pb.ModelVersion:
    return pb.ModelVersion(
        name=version.name,
        manifest=to_proto(version.manifest),
        sources=version.sources,
        metrics=(pb.Metric(name=metric.name, value=metric.value) for metric in version.metrics),
        create_time=timestamp(version.create_us),
        privacy=codec.to_proto(version.privacy) if version.privacy else None,
    )


def _alias(alias: Alias) -> pb.Alias:
    return pb.Alias(name=alias.name, version=alias.version, update_time=timestamp(alias.update_us))
