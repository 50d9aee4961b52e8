"""The client of plain Flower: trains, and evaluates, on the data of its node."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_peer.task import Net, evaluate, load, train

app = ClientApp()


@app.train()
def train_here(message: Message, context: Context) -> Message:
    """Trains the received weights on the node's data."""
    model, config = Net(), context.run_config
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data, load_s = load(str(context.node_config["data"]))
    epochs, batch_size = int(config["local-epochs"]), int(config["batch-size"])
    loss = train(model, data, epochs, batch_size, float(config["learning-rate"]))
    metrics = MetricRecord({"train_loss": loss, "load_s": load_s, "num-examples": len(data)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate_here(message: Message, context: Context) -> Message:
    """Evaluates the received weights on the node's data."""
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data, load_s = load(str(context.node_config["data"]))
    loss, accuracy = evaluate(model, data)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "load_s": load_s, "num-examples": len(data)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
