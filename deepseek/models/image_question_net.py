"""A small network that answers questions about an image by choosing one of a fixed set of answers.

An image is encoded once for all questions about it, which saves most of the work if, say, ten questions share an image.
A question is represented by the sum of its words' embeddings, so word order is ignored. The sum scales and shifts the
features of the image (FiLM, Perez et al. 2018, arXiv:1709.07871). The network itself normalizes the uint8 pixels, so an
exported model accepts the output of the image encoder. Batch normalization and a one-cycle schedule shorten training.

Shapes: B images, Q questions per image, L words per question, H x W pixels, C answers, D features.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models.normalization import check_norm, norm_2d

PAD = 0
"""Token id that pads short questions."""


class ImageQuestionNet(nn.Module):
    """Network that answers questions about images. Build it with `image_question`."""

    def __init__(self, vocabulary: int, num_classes: int, width: int, features: int, norm: str = "batch") -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(3, width, norm, stride=2),
            _convolution(width, 2 * width, norm, stride=2),
            _convolution(2 * width, 2 * width, norm),
            _convolution(2 * width, 4 * width, norm, stride=2),
            _convolution(4 * width, 4 * width, norm),
            _convolution(4 * width, features, norm, stride=2),
        )
        self.words = nn.Embedding(vocabulary, features, padding_idx=PAD)
        self.question = nn.Linear(features, features)
        self.scale_shift = nn.Linear(features, 2 * features)
        self.hidden = nn.Linear(features, features)
        self.answer = nn.Linear(features, num_classes)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Returns the logits of all answers to each question, float [B, Q, C], or [B, C] for one question per image.

        Args:
            image: Pixels, uint8 [B, H, W, 3].
            question: Token ids, int64 [B, Q, L], or [B, L] for one question per image; 0 is padding.
        """
        if question.ndim == 2:
            return self.forward(image, question.unsqueeze(1)).squeeze(1)
        # A permuted NHWC tensor already has the memory format channels_last.
        pixels_BCHW = image.permute(0, 3, 1, 2).to(self.answer.weight.dtype).div(127.5).sub(1.0)
        maps_BDHW = self.convolutions(pixels_BCHW)
        image_B1D = maps_BDHW.amax(dim=(2, 3)).unsqueeze(1)
        question_BQD = F.relu(self.question(self.words(question).sum(dim=2)))
        scale_BQD, shift_BQD = self.scale_shift(question_BQD).chunk(2, dim=-1)
        joint_BQD = F.relu((1 + scale_BQD) * image_B1D + shift_BQD)
        logits_BQC: Tensor = self.answer(F.relu(self.hidden(joint_BQD)))
        return logits_BQC


def _convolution(num_in: int, num_out: int, norm: str, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
        norm_2d(norm, num_out),
        nn.ReLU(inplace=True),
    )


def image_question(
    vocabulary: int = 64, num_classes: int = 13, width: int = 32, features: int = 128, norm: str = "batch"
) -> ImageQuestionNet:
    """Network that answers questions about an image by choosing one of a fixed set of answers.

    Args:
        vocabulary: Number of token ids of the question encoder, including the special ones.
        num_classes: Number of answers.
        width: Number of channels of the first convolution.
        features: Length of the feature vector of an image, and of a question.
        norm: Normalization of the convolutions: `batch`, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    for name, value in {"num_classes": num_classes, "width": width, "features": features}.items():
        if value < 1:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be at least 1", field=name)
    if vocabulary <= PAD:
        raise InvalidArgument(
            "BAD_VALUE", f"vocabulary is {vocabulary}; it must be at least {PAD + 1}", field="vocabulary"
        )
    check_norm(norm)
    return ImageQuestionNet(vocabulary, num_classes, width, features, norm)
