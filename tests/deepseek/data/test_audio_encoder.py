import io

import numpy as np
import pytest
import soundfile

from common.errors import InvalidArgument
from deepseek.data import encoders
from deepseek.data.audio_encoder import AudioEncoder, resample
from tests.deepseek.data.samples import sound_file


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    wave: np.ndarray = np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return wave


def recording(values: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, values.astype(np.float32), rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(8000, 16000), (44100, 16000), (48000, 16000), (11025, 16000), (22050, 44100), (16000, 7920)]
)
def test_a_tone_is_the_same_tone_at_another_rate(rate: int, new_rate: int) -> None:
    for share in (0.01, 0.3, 0.9):
        frequency = share * min(rate, new_rate) / 2
        found = resample(tone(frequency, rate), rate, new_rate)
        assert len(found) == new_rate
        inner = slice(new_rate // 10, -new_rate // 10)  # the tone begins and ends abruptly
        np.testing.assert_allclose(found[inner], tone(frequency, new_rate)[inner], atol=1e-3)


def test_an_uncommon_rate_changes_the_pitch_by_less_than_a_twentieth_of_a_percent() -> None:
    found = resample(tone(1000, 16000), 16000, 8001)
    assert len(found) == pytest.approx(8001, rel=5e-4)
    np.testing.assert_allclose(found[800:-800], tone(1000, 8000)[800:-800], atol=1e-3)


def test_frequencies_that_the_new_rate_cannot_hold_are_removed() -> None:
    found = resample(tone(8100, 44100), 44100, 16000)
    assert np.abs(found[1600:-1600]).max() < 10 ** (-90 / 20)


def test_a_recording_of_the_same_rate_is_kept_exactly() -> None:
    values = tone(440, 16000)
    assert np.array_equal(AudioEncoder().encode(recording(values, 16000)), values.astype(np.float32))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_the_waveform_has_a_fixed_length_and_one_channel(kind: str) -> None:
    encoder = AudioEncoder(sample_rate=8000, seconds=0.1)
    assert (encoder.shape, encoder.dtype) == ((800,), np.float32)
    encoded = encoder.encode(sound_file(400, kind))
    assert encoded.shape == (800,)
    assert encoded[:400].any()
    assert not encoded[500:].any()
    assert AudioEncoder(8000, 0.01).encode(sound_file(400, kind)).shape == (80,)


def test_channels_are_averaged() -> None:
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1)
    encoded = AudioEncoder(8000, 0.01).encode(recording(stereo, 8000))
    np.testing.assert_allclose(encoded, 0.125)


def test_only_the_beginning_of_a_long_recording_is_resampled() -> None:
    encoder = AudioEncoder(16000, 0.5)
    long, short = tone(1000, 44100, 20.0), tone(1000, 44100, 0.55)
    np.testing.assert_allclose(
        encoder.encode(recording(long, 44100)), encoder.encode(recording(short, 44100)), atol=1e-6
    )


def test_an_encoder_is_restored_with_its_parameters() -> None:
    encoder = AudioEncoder(sample_rate=8000, seconds=0.25)
    again = encoders.restore("audio", encoder.params, encoder.state())
    data = sound_file()
    assert np.array_equal(again.encode(data), encoder.encode(data))


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"sample_rate": 10}, "sample_rate"),
        ({"sample_rate": 1_000_000}, "sample_rate"),
        ({"sample_rate": "8000"}, "sample_rate"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_parameters_out_of_range_are_refused(params: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        AudioEncoder(**params)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a.wav", "WRONG_TYPE"),
        (b"", "DAMAGED_AUDIO"),
        (b"RIFF", "DAMAGED_AUDIO"),
        (recording(np.zeros(9), 400), "UNSUPPORTED_RATE"),
    ],
)
def test_what_is_no_recording_is_refused(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        AudioEncoder().encode(value)
    assert caught.value.reason == reason
