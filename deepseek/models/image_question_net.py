"""A small network that answers questions about an image by choosing one of a fixed set of answers.

Design choices: the image is encoded once and shared by all questions about it, which saves most of the work when ten
questions share an image; batch normalisation and a one-cycle learning rate train it in a few passes; a question is the
sum of its words' embeddings, so the order of words is not seen; the question scales and shifts the image's features
(FiLM, Perez et al. 2018, arXiv:1709.07871). uint8 pixels are normalised inside the graph, so an exported model takes
what the encoders give.

Shapes: B images, Q questions an image, L words a question, H x W pixels, C answers, D features.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InvalidArgument

PAD = 0
"""Token that stands for no word."""


class ImageQuestionNet(nn.Module):
    """See the module. Built by `image_question`."""

    def __init__(self, vocabulary: int, num_classes: int, width: int, features: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(3, width, stride=2),
            _convolution(width, 2 * width, stride=2),
            _convolution(2 * width, 2 * width),
            _convolution(2 * width, 4 * width, stride=2),
            _convolution(4 * width, 4 * width),
            _convolution(4 * width, features, stride=2),
        )
        self.words = nn.Embedding(vocabulary, features, padding_idx=PAD)
        self.question = nn.Linear(features, features)
        self.scale_shift = nn.Linear(features, 2 * features)
        self.hidden = nn.Linear(features, features)
        self.answer = nn.Linear(features, num_classes)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Scores every answer to every question.

        Args:
            image: uint8 [B, H, W, 3].
            question: int64 [B, Q, L], tokens; 0 is no word.

        Returns:
            Logits, float [B, Q, C].
        """
        # A permuted NHWC tensor already lies in memory as torch's channels_last wants it.
        pixels_BCHW = image.permute(0, 3, 1, 2).to(self.answer.weight.dtype).div(127.5).sub(1.0)
        maps_BDHW = self.convolutions(pixels_BCHW)
        image_B1D = maps_BDHW.amax(dim=(2, 3)).unsqueeze(1)
        question_BQD = F.relu(self.question(self.words(question).sum(dim=2)))
        scale_BQD, shift_BQD = self.scale_shift(question_BQD).chunk(2, dim=-1)
        joint_BQD = F.relu((1 + scale_BQD) * image_B1D + shift_BQD)
        logits_BQC: Tensor = self.answer(F.relu(self.hidden(joint_BQD)))
        return logits_BQC


def _convolution(num_in: int, num_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
    )


def image_question(
    vocabulary: int = 64, num_classes: int = 13, width: int = 32, features: int = 128
) -> ImageQuestionNet:
    """Builds the network.

    Args:
        vocabulary: Number of question tokens, the special ones included.
        num_classes: Number of answers.
        width: Channels of the first convolution.
        features: Length of an image's and of a question's feature vector.

    Raises:
        InvalidArgument: BAD_VALUE with the argument's name as the field.
    """
    for name, value in {"num_classes": num_classes, "width": width, "features": features}.items():
        if value < 1:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; at least 1 is needed", field=name)
    if vocabulary <= PAD:
        raise InvalidArgument("BAD_VALUE", f"vocabulary is {vocabulary}; it must hold padding", field="vocabulary")
    return ImageQuestionNet(vocabulary, num_classes, width, features)
