"""Converts the coordinator's values between protobuf and the domain."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from common.jobs.history import RunEvent
from common.jobs.job import JobError
from common.jobs.proto import error_to_proto, job_to_proto
from common.paths import without_paths
from common.proto import enum_name, plain_json, timestamp
from deepseek.federated.run_spec import FederatedRunSpec
from protos.federated.v1 import federated_pb2 as pb
from protos.privacy.v1 import privacy_pb2
from protos.trainer.v1 import trainer_pb2
from services.federated.federation import Federation, Node
from services.federated.run import FederatedRun

MAX_SPEC_BYTES = 32 << 10
"""Maximum size of an encoded spec. It is small enough that a page of 1000 runs fits in one message."""


def read_spec(message: pb.FederatedRunSpec) -> FederatedRunSpec:
    """Converts a message to the spec of a run.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE; TOO_LARGE.
    """
    return FederatedRunSpec.from_json(plain_json(message, field="spec", max_bytes=MAX_SPEC_BYTES))


def federation_to_proto(federation: Federation) -> pb.Federation:
    """Returns a federation as a message."""
    return pb.Federation(
        name=federation.name,
        description=federation.description,
        num_nodes=federation.num_nodes,
        create_time=timestamp(federation.create_us),
    )


def node_to_proto(node: Node, *, online: bool) -> pb.Node:
    """Returns a node as a message."""
    return pb.Node(
        name=node.name,
        public_key=node.public_key,
        fingerprint=node.fingerprint,
        flower_node_id=node.flower_node_id,
        online=online,
        create_time=timestamp(node.create_us),
    )


def run_to_proto(run: FederatedRun, last_round: Mapping[str, Any] | None) -> pb.Run:
    """Returns a run as a message.

    Args:
        run: The run.
        last_round: The last released round, as `round_store.shown` returns it; None before the first one.
    """
    return pb.Run(
        name=run.name,
        spec=json_format.ParseDict(run.spec.to_json(), pb.FederatedRunSpec()),
        job=job_to_proto(run.job),
        num_released=run.num_released,
        last_round=round_to_proto(last_round) if last_round else None,
        privacy=_privacy(run, last_round),
        create_time=timestamp(run.create_us),
    )


def round_to_proto(values: Mapping[str, Any]) -> pb.Round:
    """Returns a round, as `round_store.shown` returns it, as a message."""
    metrics = [trainer_pb2.MetricValue(name=name, value=value) for name, value in values["metrics"].items()]
    return pb.Round(
        round=values["round"],
        state=enum_name(pb.RoundState, values["state"]),
        attempt=values["attempt"],
        num_asked=values["num_asked"],
        num_counted=values["num_counted"],
        refusals=[pb.Refusal(**refusal) for refusal in values["refusals"]],
        metrics=metrics,
        epsilon_spent=values["epsilon_spent"],
        epsilon_left=values["epsilon_left"],
        model_version=values["model_version"],
        round_s=values["round_s"] or 0.0,
    )


def event_to_proto(event: RunEvent) -> pb.RunEvent:
    """Returns an entry of a run's history as a message."""
    message = pb.RunEvent(sequence=event.sequence, time=timestamp(event.time_us))
    values = dict(event.payload)
    match event.kind:
        case "round":
            message.round.CopyFrom(pb.RoundEvent(round=round_to_proto(values)))
        case "attempt":
            message.attempt.CopyFrom(pb.AttemptEvent(**values))
        case "warning":
            message.warning.CopyFrom(pb.WarningEvent(**{**values, "message": without_paths(values["message"])}))
        case "state":
            error = error_to_proto(JobError(**values["error"])) if "error" in values else None
            message.state.CopyFrom(pb.StateEvent(state=f"JOB_STATE_{values['state']}", error=error))
    return message


def _privacy(run: FederatedRun, last_round: Mapping[str, Any] | None) -> pb.RunPrivacy | None:
    plan = run.privacy
    if plan is None:
        return None
    release = plan.release
    guarantee, epsilon_left = None, plan.epsilon_left
    if last_round is not None:
        epsilon_left = last_round["epsilon_left"]
        guarantee = privacy_pb2.Guarantee(
            epsilon=last_round["epsilon_spent"],
            delta=plan.delta,
            unit=enum_name(privacy_pb2.Unit, plan.unit),
            adjacency=privacy_pb2.ADJACENCY_ADD_REMOVE,
            sampling=privacy_pb2.SAMPLING_POISSON if release.sampling_rate < 1 else privacy_pb2.SAMPLING_NONE,
            debit=last_round["debit"],
        )
    return pb.RunPrivacy(
        budget=plan.budget,
        release=privacy_pb2.Release(
            noise_multiplier=release.noise_multiplier, sampling_rate=release.sampling_rate, count=release.count
        ),
        guarantee=guarantee,
        epsilon_left=epsilon_left,
    )
