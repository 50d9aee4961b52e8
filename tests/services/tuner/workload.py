"""The tuner's part of the fault trials."""

import threading

from protos.trainer.v1 import trainer_pb2
from protos.tuner.v1 import tuner_pb2, tuner_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer, request_id
from tests.harness.mesh import MeshProcesses
from tests.services.tuner.specs import SPEC


class Searcher(WritingClient):
    """Creates a study, evaluates trials of it, and stops a few of them."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = tuner_pb2_grpc.TunerServiceStub(self.mesh.channel("tuner"))
        self._study = f"studies/{trial}"
        self._given: dict[str, tuner_pb2.Trial] = {}
        self._ended: dict[str, float | None] = {}

    def work(self) -> None:
        from deepseek.client.studies import parse_study_spec

        create = tuner_pb2.CreateStudyRequest(study_id=self.trial, spec=parse_study_spec(SPEC), request_id=request_id())
        answer(self._stub.CreateStudy, create)
        self.acknowledged()
        for i in self.rounds():
            suggest = tuner_pb2.SuggestTrialsRequest(parent=self._study, client_id="worker")
            (given,) = answer(self._stub.SuggestTrials, suggest).trials
            if given.name in self._ended:
                self.findings.double_writers.append(f"{given.name} was suggested again after it had ended")
            self._given[given.name] = given
            self.acknowledged()
            metrics = [trainer_pb2.MetricValue(name="loss", value=1 / (i + 1))]
            measurement = tuner_pb2.Measurement(step=1, metrics=metrics)
            answer(self._stub.AddMeasurement, tuner_pb2.AddMeasurementRequest(name=given.name, measurement=measurement))
            self.acknowledged()
            complete = tuner_pb2.CompleteTrialRequest(name=given.name)
            if i % 3 == 2:
                complete.stopped = True
            else:
                complete.final.CopyFrom(tuner_pb2.FinalMetrics(metrics=metrics))
            answer(self._stub.CompleteTrial, complete)
            self._ended[given.name] = None if i % 3 == 2 else metrics[0].value
            self.acknowledged()

    def check(self) -> None:
        stored = {trial.name for trial in self.mesh.studies.trials(self._study)}
        self.findings.lost_writes += [f"{name} is gone" for name in self._given if name not in stored]
        self.findings.double_writers += [f"{name} was never suggested" for name in stored - self._given.keys()]
        for name, given in self._given.items():
            if name not in stored:
                continue
            found = self.mesh.studies.trial(name)
            self.findings.num_reads += 1
            if found.parameters != given.parameters:
                self.findings.torn_reads.append(f"{name} has other parameters than it was suggested with")
            if name not in self._ended:
                continue
            value = found.metrics[0].value if found.metrics else None
            if len(found.measurements) != 1 or value != self._ended[name] or not found.HasField("end_time"):
                self.findings.lost_writes.append(f"{name} ended with {self._ended[name]} and is {found.state}, {value}")


class TunerWorkload(Workload):
    """Studies, which depend on nothing that must be created first."""

    def __init__(self, mesh: MeshProcesses) -> None:
        pass

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Searcher(mesh, trial, enough)]


WORKLOAD = TunerWorkload
