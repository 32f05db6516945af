"""Latents to pixels, frames or waveforms, as each known family's own tail does it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fkdiff.taps.coefficients import TapError

__all__ = ["DECODERS", "Decoder", "decoder_for", "yields"]

Call: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Decoder:
    """How one family turns latents into samples.

    Arguments:
        inputs: What it yields: "pixels" (n, 3, h, w) and "video" (n, f, 3, h, w) in [0, 1], or
            "audio" (n, channels, time).
        run: (pipe, latents (n, *), the pipeline call's arguments) to samples.
    """

    inputs: str
    run: Callable[[Any, Tensor, Call], Tensor]


def _unit(images: Tensor) -> Tensor:
    return (images * 0.5 + 0.5).clamp(0, 1)


def _pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    """Scale, shift or standardise by the autoencoder's own config, decode, map to [0, 1]."""
    config, vae = pipe.vae.config, pipe.vae
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shape = (1, -1, *[1] * (z.ndim - 2))
        mean, std = (torch.tensor(v).reshape(shape).to(z) for v in (mean, std))
        z = z * std / config.scaling_factor + mean
    else:
        z = z / config.scaling_factor + (config.get("shift_factor") or 0)
    dtype = vae.dtype  # asks all of its modules
    half = dtype == torch.float16 and config.get("force_upcast")
    if half:  # this autoencoder overflows in float16; the pipelines upcast it too
        dtype = torch.float32
        vae.to(dtype)
    try:
        return _unit(vae.decode(z.to(dtype), return_dict=False)[0])
    finally:
        if half:
            vae.to(torch.float16)


def _dit_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    return _unit(pipe.vae.decode(1 / pipe.vae.config.scaling_factor * z).sample)


def _unpacked(pipe: Any, z: Tensor, call: Call) -> Tensor:
    """A sequence of cells as a picture of latents."""
    size = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = call.get("height") or size, call.get("width") or size
    return pipe._unpack_latents(z, height, width, pipe.vae_scale_factor)


def _flux_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    return _pixels(pipe, _unpacked(pipe, z, call), call)


def _qwen_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    return _wan_video(pipe, _unpacked(pipe, z, call), call)[:, 0]


def _cosmos_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    """The guardrail that follows reads whole numbers, and what it passes is what comes out."""
    frames = _wan_video(pipe, z / pipe.scheduler.config.sigma_data, call)
    return _unit((frames[:, 0] * 255).to(torch.uint8).float() / 255 * 2 - 1)


def _raw_pixels(pipe: Any, x: Tensor, call: Call) -> Tensor:
    return _unit(x)


def _wan_video(pipe: Any, z: Tensor, call: Call) -> Tensor:
    config = pipe.vae.config
    shape = (1, config.z_dim, 1, 1, 1)
    mean = torch.tensor(config.latents_mean).view(shape).to(z)
    std = 1.0 / torch.tensor(config.latents_std).view(shape).to(z)
    frames = pipe.vae.decode((z / std + mean).to(pipe.vae.dtype), return_dict=False)[0]
    return _unit(frames).transpose(1, 2)


def _ltx_video(pipe: Any, z: Tensor, call: Call) -> Tensor:
    temporal, spatial = pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio
    given = {"num_frames": 161, "height": 512, "width": 704, **call}
    z = pipe._unpack_latents(
        z,
        (given["num_frames"] - 1) // temporal + 1,
        given["height"] // spatial,
        given["width"] // spatial,
        pipe.transformer_spatial_patch_size,
        pipe.transformer_temporal_patch_size,
    )
    vae = pipe.vae
    z = pipe._denormalize_latents(z, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    timestep = _ltx_timestep(z, call) if vae.config.timestep_conditioning else None
    return _unit(vae.decode(z.to(vae.dtype), timestep, return_dict=False)[0]).transpose(1, 2)


def _ltx_timestep(z: Tensor, call: Call) -> Tensor:
    timestep, noise = call.get("decode_timestep") or 0.0, call.get("decode_noise_scale")
    if isinstance(timestep, list) or (timestep if noise is None else noise):
        raise TapError(
            "decode_noise_scale adds noise after the last reward, so that no weight could know "
            "the sample; pass decode_timestep as one number and decode_noise_scale=0.0"
        )
    return torch.full((len(z),), timestep, device=z.device, dtype=z.dtype)


def _mochi_video(pipe: Any, z: Tensor, call: Call) -> Tensor:
    return _pixels(pipe, z, call).transpose(1, 2)


def _cogvideox_video(pipe: Any, z: Tensor, call: Call) -> Tensor:
    patch = pipe.transformer.config.patch_size_t
    frames = call.get("num_frames") or pipe.transformer.config.sample_frames
    latent_frames = (frames - 1) // pipe.vae_scale_factor_temporal + 1
    padding = (patch - latent_frames % patch) % patch if patch else 0
    return _unit(pipe.decode_latents(z[:, padding:])).transpose(1, 2)


def _stable_audio(pipe: Any, z: Tensor, call: Call) -> Tensor:
    rate = pipe.vae.config.sampling_rate
    length = pipe.transformer.config.sample_size * pipe.vae.hop_length / rate
    start, end = call.get("audio_start_in_s") or 0.0, call.get("audio_end_in_s")
    end = length if end is None else end
    return pipe.vae.decode(z).sample[:, :, int(start * rate) : int(end * rate)]


def _audioldm2_audio(pipe: Any, z: Tensor, call: Call) -> Tensor:
    mel = pipe.vae.decode(1 / pipe.vae.config.scaling_factor * z).sample
    rate = pipe.vocoder.config.sampling_rate
    seconds = call.get("audio_length_in_s")
    if seconds is None:
        upsampling = np.prod(pipe.vocoder.config.upsample_rates) / rate
        seconds = pipe.unet.config.sample_size * pipe.vae_scale_factor * upsampling
    return pipe.mel_spectrogram_to_waveform(mel)[:, None, : int(seconds * rate)]


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "StableDiffusionPipeline",
                "StableDiffusionImg2ImgPipeline",
                "StableDiffusionInpaintPipeline",
                "StableDiffusionControlNetPipeline",
                "StableDiffusionXLPipeline",
                "StableDiffusionXLImg2ImgPipeline",
                "StableDiffusionXLInpaintPipeline",
                "StableDiffusion3Pipeline",
                "StableDiffusion3ModularPipeline",
                "LatentConsistencyModelPipeline",
                "PixArtSigmaPipeline",
                "PixArtAlphaPipeline",
                "SanaPipeline",
                "AuraFlowPipeline",
                "HunyuanDiTPipeline",
                "KolorsPipeline",
                "Lumina2Pipeline",
                "ZImagePipeline",
            ),
            Decoder("pixels", _pixels),
        ),
        **dict.fromkeys(
            ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "ChromaPipeline"),
            Decoder("pixels", _flux_pixels),
        ),
        "QwenImagePipeline": Decoder("pixels", _qwen_pixels),
        "Cosmos2TextToImagePipeline": Decoder("pixels", _cosmos_pixels),
        "DiTPipeline": Decoder("pixels", _dit_pixels),
        "DDPMPipeline": Decoder("pixels", _raw_pixels),
        "DDIMPipeline": Decoder("pixels", _raw_pixels),
        "WanPipeline": Decoder("video", _wan_video),
        "CogVideoXPipeline": Decoder("video", _cogvideox_video),
        "LTXPipeline": Decoder("video", _ltx_video),
        "MochiPipeline": Decoder("video", _mochi_video),
        "StableAudioPipeline": Decoder("audio", _stable_audio),
        "AudioLDM2Pipeline": Decoder("audio", _audioldm2_audio),
    }
)


def decoder_for(pipe: Any) -> Decoder | None:
    """The family's decoder, also for subclasses; None for a family that isn't known."""
    for base in type(pipe).__mro__:
        if base.__name__ in DECODERS:
            return DECODERS[base.__name__]
    return None


def yields(pipe: Any) -> str:
    """What the pipeline makes: "pixels", "video" or "audio"; told by what its call returns."""
    decoder = decoder_for(pipe)
    if decoder is not None:
        return decoder.inputs
    told = [_KINDS[name] for name in _returned(pipe) if name in _KINDS]
    if told:
        return told[0]
    names = inspect.signature(type(pipe).__call__).parameters
    if {"num_frames", "num_videos_per_prompt"} & {*names}:  # some with sound beside it
        return "video"
    sounds = any("waveform" in name or name.startswith("audio_") for name in names)
    return "audio" if sounds else "pixels"


_KINDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("frames", "videos", "video"), "video"),
        **dict.fromkeys(("images", "image"), "pixels"),
        "audios": "audio",
    }
)


def _returned(pipe: Any) -> list[str]:
    """First fields of the output classes that the pipeline's call names."""
    found = []
    for base in type(pipe).__mro__:
        call = inspect.unwrap(vars(base)["__call__"]) if "__call__" in vars(base) else None
        for name in getattr(getattr(call, "__code__", None), "co_names", ()):
            fields = getattr(call.__globals__.get(name), "__dataclass_fields__", None)  # pyright: ignore
            if name.endswith("Output") and fields:
                found.append(next(iter(fields)))
    return found
