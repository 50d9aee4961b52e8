"""A network over the columns of a table: numbers, integers and labels.

Numbers are standardised by the mean and the variance of all training batches so far, so they need no scaling
beforehand. Labels are embedded. A multilayer perceptron follows, and optionally a factorization machine (Rendle 2010),
which models the product of every pair of columns, in the form of He & Chua 2017 (arXiv:1708.05027, eq. 3 and 4).

Shapes: B rows, N numeric columns, M label columns, F factors, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive

_EMBEDDING = 8


class Standardise(nn.Module):
    """Subtracts the mean of each column, and divides by its standard deviation.

    In training, each batch first updates the statistics (Chan et al. 1979). Unlike batch normalisation, this adds no
    noise from the batch, and it preserves the exact proportions between rows.

    Args:
        num_columns: Number of columns.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(num_columns))
        self.register_buffer("variance", torch.ones(num_columns))

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """Returns the standardised numbers, float32 [B, N]. A constant column becomes 0."""
        if self.training:
            self._update(numbers_BN.detach())
        # The variance of a constant column is not exactly 0, because of rounding.
        is_constant = self.variance <= 1e-12 * self.mean.square()
        return (numbers_BN - self.mean) / torch.where(is_constant, 1.0, self.variance).sqrt()

    def _update(self, numbers_BN: Tensor) -> None:
        num_new = len(numbers_BN)
        total = self.count + num_new
        difference = numbers_BN.mean(0) - self.mean
        spread = self.count * self.variance + num_new * numbers_BN.var(0, correction=0)
        self.variance.copy_((spread + difference.square() * self.count * num_new / total) / total)
        self.mean.add_(difference * num_new / total)
        self.count.copy_(total)


class TabularNet(nn.Module):
    """Network over the columns of a table. Build it with `tabular`."""

    def __init__(
        self,
        columns: Mapping[str, int],
        num_classes: int,
        width: int,
        depth: int,
        factors: int,
        dropout: float,
        offset: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.offset, self.scale = offset, scale
        self.numeric = [name for name, num_labels in columns.items() if not num_labels]
        self.labelled = [name for name, num_labels in columns.items() if num_labels]
        sizes = [columns[name] for name in self.labelled]
        self.standardise = Standardise(len(self.numeric)) if self.numeric else None
        self.embeddings = nn.ModuleList(nn.Embedding(size, min(_EMBEDDING, size)) for size in sizes)
        num_features = len(self.numeric) + sum(min(_EMBEDDING, size) for size in sizes)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(num_features, width), nn.ReLU(), nn.Dropout(dropout)]
            num_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(num_features, num_classes))
        self.interaction: nn.Linear | None = None
        if factors:
            self.number_factors = nn.Parameter(torch.randn(len(self.numeric), factors) * 0.1)
            self.label_factors = nn.ModuleList(nn.Embedding(size, factors) for size in sizes)
            for embedding in self.label_factors:
                nn.init.normal_(embedding.weight, std=0.1)  # type: ignore[arg-type]
            self.interaction = nn.Linear(factors, num_classes, bias=False)

    def forward(self, **columns: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, K].

        Args:
            **columns: One tensor [B] per column of the table: any number, or the class number of a label.

        Raises:
            InvalidArgument: WRONG_TYPE if the columns differ from those for which the network was built, or if one is
                not of the shape [B].
        """
        self._check(columns)
        labels = [columns[name].long() for name in self.labelled]
        features = [embedding(column) for embedding, column in zip(self.embeddings, labels, strict=True)]
        numbers_BN = None
        if self.standardise is not None:
            numbers_BN = self.standardise(torch.stack([columns[name].float() for name in self.numeric], 1))
            features.insert(0, numbers_BN)
        logits: Tensor = self.layers(torch.cat(features, 1))
        if self.interaction is not None:
            factors = [embedding(column) for embedding, column in zip(self.label_factors, labels, strict=True)]
            terms_BCF = [torch.stack(factors, 1)] if factors else []
            if numbers_BN is not None:
                terms_BCF.append(numbers_BN.unsqueeze(2) * self.number_factors)
            terms = torch.cat(terms_BCF, 1)
            # The sum of the products of all pairs is half of the square of the sum less the sum of the squares.
            products_BF = (terms.sum(1).square() - terms.square().sum(1)) / 2
            logits = logits + self.interaction(products_BF)
        return logits.float() * self.scale + self.offset

    def _check(self, columns: Mapping[str, Tensor]) -> None:
        known = {*self.numeric, *self.labelled}
        if set(columns) != known:
            message = f"the columns are {', '.join(sorted(columns))}; the model expects {', '.join(sorted(known))}"
            raise InvalidArgument("WRONG_TYPE", message, field="columns")
        for name, column in columns.items():
            if column.ndim != 1:
                message = f"the column {name} has the shape {tuple(column.shape)}; it must have one value per row, [B]"
                raise InvalidArgument("WRONG_TYPE", message, field=name)


def tabular(
    columns: Mapping[str, int],
    num_classes: int,
    width: int = 64,
    depth: int = 2,
    factors: int = 0,
    dropout: float = 0.1,
    offset: float = 0.0,
    scale: float = 1.0,
) -> TabularNet:
    """Network over any number of table columns: a multilayer perceptron with an optional factorization machine.

    Each column is an input of its own, of type number, integer or label, under any name. Numbers and integers are
    standardised in the network.

    Args:
        columns: Number of labels of each label column, and 0 for each column of numbers, by name. In a run spec, its
            default follows from the inputs.
        num_classes: Number of classes; 1 to predict a number. In a run spec, its default is the number of the target's
            labels, or 1 if the target is a number.
        width: Number of features of each hidden layer.
        depth: Number of hidden layers; 0 for a linear model.
        factors: Number of factors of the factorization machine; 0 for none.
        dropout: Probability that a hidden feature is dropped in training; at least 0 and below 1.
        offset: Typical value of the number to predict. The network starts from it; it is added to the outputs.
        scale: Typical deviation of the number to predict from `offset`. The outputs are multiplied by it; above 0.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"num_classes": num_classes, "width": width, "columns": len(columns)})
    sizes = {f"columns.{column}": num_labels for column, num_labels in columns.items()}
    for name, value in {"depth": depth, "factors": factors, **sizes}.items():
        if value < 0:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be at least 0", field=name)
    if scale <= 0:
        raise InvalidArgument("BAD_VALUE", f"scale is {scale}; it must be above 0", field="scale")
    check_dropout(dropout)
    return TabularNet(columns, num_classes, width, depth, factors, dropout, offset, scale)
