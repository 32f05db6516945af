"""Rewards of waveforms: loudness, and where and how evenly their spectrum lies.

Exactly known, they show what steering does to sound before a model judges anything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fkdiff.rewards.plain import Measure

__all__ = ["Loudness", "SpectralCentroid", "SpectralFlatness"]

_FLOOR = 1e-12  # of a mean power: silence is -120 dB


@dataclass(frozen=True, repr=False)
class Loudness(Measure):
    r"""Mean power of a waveform in decibels of full scale: 0 for a square wave of 1, -120 silent.

    $$ r(x) = 10 \log_{10} (\mathrm{mean}(x^2) + 10^{-12}) $$

    over time and channels. Not weighted by frequency. Natural units: mean 0 and sd 1, unless
    stated. Settings are those of `Measure`.

    References:
        | AES standard method for digital audio engineering, AES17 (2020), full-scale level

    Example:
        >>> Loudness()(torch.stack([torch.ones(1, 8), torch.zeros(1, 8)]))
        tensor([   0., -120.])
    """

    name = "loudness"
    inputs = "audio"

    def values(self, samples: Tensor) -> Tensor:
        """Decibels of waveforms (n, channels, time) in [-1, 1], shape (n,)."""
        return 10 * (samples.square().mean(dim=(1, 2)) + _FLOOR).log10()


@dataclass(frozen=True, repr=False)
class SpectralCentroid(Measure):
    r"""Brightness of a sound: its power's mean frequency, from 0 to 1 at half the sampling rate.

    $$ r(x) = \frac{\sum_k (k / K) P_k}{\sum_k P_k}, \qquad P_k = \mathrm{mean}_w |X_{wk}|^2 $$

    with windows w of 1,024 samples (less if the sound is shorter) and bins k = 0, ..., K. In hertz
    it is `rate / 2 * SpectralCentroid()`. Silence has 0. Natural units: mean 0 and sd 1, unless
    stated. Settings are those of `Measure`.

    References:
        | A large set of audio features for sound description (Peeters, 2004)

    Example:
        >>> clicks = torch.tensor([1.0, -1.0]).repeat(64).reshape(1, 1, 128)
        >>> SpectralCentroid()(clicks).item() > 0.95
        True
    """

    name = "spectral-centroid"
    inputs = "audio"

    def values(self, samples: Tensor) -> Tensor:
        """Mean frequency of waveforms (n, channels, time), shape (n,)."""
        power = _power(samples)
        frequency = torch.linspace(0, 1, power.shape[1]).to(power)
        return (power * frequency).sum(dim=1) / (power.sum(dim=1) + _FLOOR)


@dataclass(frozen=True, repr=False)
class SpectralFlatness(Measure):
    r"""How noise-like a sound is: 0 for a pure tone, near 1 for white noise.

    $$ r(x) = \frac{\exp(\mathrm{mean}_k \log Q_k)}{\mathrm{mean}_k Q_k} $$

    with $Q_k = P_k + 10^{-12}$ and the spectrum P of `SpectralCentroid`; silence has 1. Natural
    units: mean 0 and sd 1, unless stated. Settings are those of `Measure`.

    References:
        | Transform coding of audio signals using perceptual noise criteria (Johnston, 1988)
        | https://doi.org/10.1109/49.608

    Example:
        >>> noise = torch.randn(1, 1, 20000, generator=torch.Generator().manual_seed(0))
        >>> SpectralFlatness()(noise).item() > 0.9
        True
    """

    name = "spectral-flatness"
    inputs = "audio"

    def values(self, samples: Tensor) -> Tensor:
        """Flatness of waveforms (n, channels, time), shape (n,)."""
        power = _power(samples) + _FLOOR
        return power.log().mean(dim=1).exp() / power.mean(dim=1)


def _power(samples: Tensor) -> Tensor:
    """Mean power spectrum of waveforms (n, channels, time), shape (n, bins)."""
    x = samples.float().flatten(0, 1)
    size = min(1024, x.shape[1])
    window = torch.hann_window(size, device=x.device)
    spectrum = torch.stft(x, size, size // 2, window=window, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(dim=-1).mean(dim=2)
    return power.unflatten(0, samples.shape[:2]).mean(dim=1) / window.square().sum()
