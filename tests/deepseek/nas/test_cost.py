import torch
from torch import nn

from deepseek.models import resnet18
from deepseek.nas.cost import latencies_ms, measured_cost
from deepseek.nas.space import Cost
from tests.deepseek.nas.networks import build, conv_spec


def test_the_cost_of_a_network_designed_by_hand() -> None:
    cost = measured_cost(resnet18(), {"image": torch.zeros(1, 3, 224, 224)})
    assert cost == Cost(11_689_512, 1_814_073_344)  # He et al. 2015, table 1: 1.8 billion


def test_counting_does_not_change_the_network() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert measured_cost(model, {"input": torch.ones(1, 4)}) == Cost(4 * 8 + 8 + 16 + 8 * 2 + 2, 4 * 8 + 8 * 2)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_latencies_are_of_the_networks_in_their_order() -> None:
    wide = {"width": 256, "depth": 3}
    models = [build(conv_spec({"width": 4})), build(conv_spec(wide)), build(conv_spec({"width": 4}, {}))]
    modes = [model.training for model in models]
    small, large, _ = latencies_ms(models, {"image": torch.rand(2, 1, 16, 16)}, num_rounds=20)
    assert 0 < small < large  # a thousand times the operations
    assert [model.training for model in models] == modes
