"""A classifier of short sounds: a log-mel spectrogram, computed in the network itself, and a small convolutional net.

Because the spectrogram is part of the network, an exported model accepts the output of the encoder `audio`. It is
computed as a convolution with windowed sines and cosines, because ONNX Runtime lacks a fast operator for it that all
exporters support. The mel scale is that of O'Shaughnessy 1987, m = 2595 log10(1 + f / 700), with triangular filters.

Shapes: B sounds, T audio values, S frames, N frequencies, M mel bands, D features, K classes.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive
from deepseek.models.convolutions import trunk
from deepseek.models.normalization import check_norm
from deepseek.models.tabular_net import Standardise

_WINDOW_S = 0.025
_HOP_S = 0.010
_SMALLEST_POWER = 1e-6
_SMALLEST_VARIANCE = 1e-5


class LogMel(nn.Module):
    """Computes the logarithm of the power in each mel band: float [B, T] -> [B, M, S].

    A frame is 25 ms long, under a Hann window; frames follow each other every 10 ms.

    Args:
        sample_rate: Sampling rate of the audio in Hz.
        num_mels: Number of mel bands between 0 Hz and half the sampling rate.
    """

    bases: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, num_mels: int) -> None:
        super().__init__()
        self.hop = max(1, round(_HOP_S * sample_rate))
        window = max(2, round(_WINDOW_S * sample_rate))
        self.register_buffer("bases", _fourier_bases(window), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, window, num_mels), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Returns the natural logarithm of the power, which is at least 1e-6, per band and frame."""
        with _full_precision(audio.device.type):
            window = self.bases.shape[-1]
            # Half a window of silence on both sides, so that even a very short sound has a frame.
            padded = F.pad(audio.to(self.bases.dtype), (window // 2, window - window // 2))
            parts = F.conv1d(padded.unsqueeze(1), self.bases, stride=self.hop)
            real_BNS, imaginary_BNS = parts.chunk(2, 1)
            power_BNS = real_BNS.square() + imaginary_BNS.square()
            mels_BMS: Tensor = torch.matmul(self.filters, power_BNS)
            return mels_BMS.clamp(min=_SMALLEST_POWER).log()


class AudioNet(nn.Module):
    """Classifier of sounds. Build it with `audio_classifier`."""

    def __init__(
        self, num_classes: int, sample_rate: int, num_mels: int, width: int, dropout: float, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate, num_mels)
        self.standardise = nn.BatchNorm1d(num_mels) if norm == "batch" else nn.GroupNorm(1, num_mels)
        self.trunk = trunk(1, width, norm)
        self.dropout = nn.Dropout(dropout)
        self.standardise_statistics = Standardise(2 * num_mels)
        self.classes = nn.Linear(8 * width + 2 * num_mels, num_classes)

    def forward(self, audio: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, K].

        Args:
            audio: Mono audio values from -1 to 1, float [B, T].

        Raises:
            InvalidArgument: WRONG_TYPE if `audio` is not a float tensor of 2 dimensions.
        """
        if not audio.is_floating_point() or audio.ndim != 2:
            message = f"audio is {audio.dtype} {tuple(audio.shape)}; use float [B, T], from the encoder audio"
            raise InvalidArgument("WRONG_TYPE", message, field="audio")
        bands_BMS = self.log_mel(audio)
        maps_BDMS = self.trunk(self.standardise(bands_BMS).unsqueeze(1))
        over_bands_BDS = maps_BDMS.mean(2)
        # A sound is recognised by its loudest moment or by its overall character (Kong et al. 2020, arXiv:1912.10211).
        features_BD = torch.cat([over_bands_BDS.mean(2), over_bands_BDS.amax(2)], 1)
        # The statistics go to the last layer, so that the network can learn whatever a linear model of them can.
        statistics = self.standardise_statistics(band_statistics(bands_BMS))
        logits: Tensor = self.classes(torch.cat([self.dropout(features_BD), statistics], 1))
        return logits


def mel_filters(sample_rate: int, window: int, num_mels: int) -> Tensor:
    """Returns triangular filters, float32 [M, N]: the weight of each frequency in each mel band.

    Neighbouring triangles overlap, so that the weights of a frequency between the first and the last centre sum to 1.
    A band that is narrower than the distance between two frequencies gets the nearest frequency.
    """
    frequencies = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate / window
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    nearest = (frequencies - edges[1:-1, None]).abs().argmin(1)
    empty = filters.sum(1) == 0
    filters[empty, nearest[empty]] = 1.0
    return filters.float()


def band_statistics(bands_BMS: Tensor) -> Tensor:
    """Returns the mean and the standard deviation of each mel band over time, [B, 2 M].

    Such pooled statistics recognise voices (x-vectors, Snyder et al. 2018, doi:10.1109/ICASSP.2018.8461375). Silent
    frames are ignored, because short sounds are padded with silence. The mean is that of the excess over the smallest
    power, so the statistics of silence alone are about 0, and those of a faint sound are close to it.

    Args:
        bands_BMS: Output of `LogMel`.
    """
    bands_BMS = bands_BMS - math.log(_SMALLEST_POWER)
    is_heard_B1S = (bands_BMS.amax(1, keepdim=True) > 1e-3).to(bands_BMS.dtype)
    weights_B1S = is_heard_B1S / is_heard_B1S.sum(2, keepdim=True).clamp(min=1)
    mean_BM1 = (bands_BMS * weights_B1S).sum(2, keepdim=True)
    variance_BM = ((bands_BMS - mean_BM1).square() * weights_B1S).sum(2)
    return torch.cat([mean_BM1.squeeze(2), (variance_BM + _SMALLEST_VARIANCE).sqrt()], 1)


def _fourier_bases(window: int) -> Tensor:
    """Returns windowed cosines, then windowed sines, of the frequencies k / window, float32 [2 N, 1, window].

    A sine of amplitude 1 has a power of 1 at its frequency.
    """
    time = torch.arange(window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / window)
    angles = 2 * math.pi * torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * time / window
    bases = torch.cat([angles.cos(), angles.sin()]) * hann * 2 / hann.sum()
    return bases.float().unsqueeze(1)


def _full_precision(device: str) -> AbstractContextManager[None]:
    """Turns autocast off, because squares of small values vanish in half precision."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # an exported graph must not contain a change of the mode


def audio_classifier(
    num_classes: int,
    sample_rate: int,
    num_mels: int = 64,
    width: int = 8,
    dropout: float = 0.2,
    norm: str = "batch",
) -> AudioNet:
    """Classifier of short sounds: a log-mel spectrogram, its mean and deviation over time, and six convolutions.

    Its input `audio` takes the output of the encoder `audio`.

    Args:
        num_classes: Number of classes; 1 to predict a number. In a run spec, its default is the number of the target's
            labels.
        sample_rate: Sampling rate of the audio in Hz. In a run spec, its default is that of the encoder.
        num_mels: Number of mel bands.
        width: Number of channels of the first convolution; the last one has four times as many.
        dropout: Probability that a feature of the last layer is dropped in training; at least 0 and below 1.
        norm: Normalization of bands and convolutions: `batch`, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"num_classes": num_classes, "num_mels": num_mels, "width": width})
    if sample_rate < 100:
        message = f"sample_rate is {sample_rate}; it must be at least 100 Hz"
        raise InvalidArgument("BAD_VALUE", message, field="sample_rate")
    check_dropout(dropout)
    check_norm(norm)
    return AudioNet(num_classes, sample_rate, num_mels, width, dropout, norm)
