#!/bin/sh
# The first steps of FedAdam in flwr 1.42.0 are too short: the first one is 0.74 times as long as Adam's.
#
# FedAdam corrects the bias of its moments with the formula of Adam (Kingma & Ba 2015, end of section 2). In step t,
# Adam's formula contains beta_1^t and beta_2^t, and the first step has t = 1. FedAdam uses round + 1 instead of t. This
# would be right if rounds were counted from 0, but `Strategy.start` counts them from 1. The first steps therefore
# follow neither Adam nor the paper of FedAdam (Reddi et al. 2021), which has no correction.
#
# If the mean update never changes, Adam moves each weight by the learning rate in each step.
# Expected: 1, 1, 1 times the learning rate in the first three rounds. Observed: 0.742, 0.857, 0.908.
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" flwr==1.42.0 numpy==2.4.6
FLWR_TELEMETRY_ENABLED=0 FLWR_HOME="$folder/home" PYTHONPATH=$folder python3 -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # the runtime sets these in a ServerApp


class OneNode:
    """A grid with one node, whose training adds 1 to the only weight."""

    def get_node_ids(self):
        return [1]

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            weight = message.content["arrays"]["weight"].numpy()
            arrays, metrics = ArrayRecord({"weight": Array(weight + 1)}), MetricRecord({"num-examples": 1})
            yield Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


weights = []
strategy = FedAdam(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, eta=1.0, tau=1e-9)
strategy.start(
    grid=OneNode(),
    initial_arrays=ArrayRecord({"weight": Array(np.zeros(1))}),
    num_rounds=30,
    evaluate_fn=lambda server_round, arrays: weights.append(arrays["weight"].numpy().item()),
)
steps = np.diff(weights)
first = [round(float(step), 3) for step in steps[:3]]
print("flwr", version("flwr"), "first steps of FedAdam, in learning rates:", first)
print("largest difference from 1 from round 10 on:", round(float(np.abs(steps[9:] - 1).max()), 3))
sys.exit(not (np.allclose(first, [0.742, 0.857, 0.908], atol=2e-3) and np.allclose(steps[9:], 1, atol=0.02)))
PYTHON
