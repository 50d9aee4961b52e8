"""The server of plain Flower: FedAvg with the strategy that Flower ships."""

import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flower_peer.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs all rounds, and writes the time of the start and of the end of each round.

    Afterwards, writes how long nodes loaded data per message, as means over the nodes, to the file with the suffix
    `.loads`.
    """
    config = context.run_config
    nodes, times = int(config["num-nodes"]), Path(str(config["times"]))
    strategy = FedAvg(
        fraction_evaluate=float(config["evaluate"]),
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes if config["evaluate"] else 0,
        min_available_nodes=nodes,
    )

    def note(_number: int, _arrays: ArrayRecord) -> MetricRecord | None:
        with times.open("a", encoding="ascii") as file:
            file.write(f"{time.time()}\n")
        return None

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(config["num-rounds"]),
        evaluate_fn=note,
    )
    found = (result.train_metrics_clientapp, result.evaluate_metrics_clientapp)
    loads = [f"{number} {record['load_s']}\n" for one in found for number, record in one.items()]
    times.with_suffix(".loads").write_text("".join(loads), encoding="ascii")
