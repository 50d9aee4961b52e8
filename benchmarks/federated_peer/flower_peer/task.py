"""The model, the data and the training of one node.

The network is the same as `cnn` with `width=8` and `norm="group"`, and the training is the same as in the compared run
spec: SGD in fp32, on one thread.
"""

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WIDTH = 8


def _convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(num_out // 2, num_out),
        nn.ReLU(),
    )


class Net(nn.Module):
    """A small convolutional classifier of uint8 images [B, H, W, 3]."""

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(3, WIDTH),
            _convolution(WIDTH, WIDTH, 2),
            _convolution(WIDTH, 2 * WIDTH),
            _convolution(2 * WIDTH, 2 * WIDTH, 2),
            _convolution(2 * WIDTH, 4 * WIDTH),
            _convolution(4 * WIDTH, 4 * WIDTH, 2),
        )
        self.classes = nn.Linear(4 * WIDTH, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits, float [B, C]."""
        pixels = image.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()
        logits: Tensor = self.classes(self.trunk(pixels).mean((2, 3)))
        return logits


def load(path: str) -> tuple[TensorDataset, float]:
    """Returns the node's samples, and how many seconds reading them took."""
    start = time.perf_counter()
    with np.load(path) as file:
        data = TensorDataset(torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]))
    return data, time.perf_counter() - start


def train(model: Net, data: TensorDataset, epochs: int, batch_size: int, learning_rate: float) -> float:
    """Trains the model, and returns the mean loss of the last epoch."""
    torch.set_num_threads(1)
    optimizer, loss_sum = torch.optim.SGD(model.parameters(), lr=learning_rate), 0.0
    for _ in range(epochs):
        loss_sum = 0.0
        for image, label in DataLoader(data, batch_size=batch_size, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(image), label)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(label)
    return loss_sum / len(data)


def evaluate(model: Net, data: TensorDataset) -> tuple[float, float]:
    """Returns the mean loss and the accuracy."""
    torch.set_num_threads(1)
    model.eval()
    images, labels = data.tensors
    with torch.no_grad():
        logits = model(images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
