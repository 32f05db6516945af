"""The decode tap: latents to pixels, frames or waveforms, as each family's own tail does it.

Known families have an entry in `DECODERS`; an unknown pipeline is decoded by its own tail in a
"null run": one step whose denoiser does nothing and whose scheduler returns the given latents.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor

from fkdiff.taps.coefficients import TapError
from fkdiff.taps.conditioning import PREPARING
from fkdiff.taps.denoiser import DENOISERS, calling
from fkdiff.taps.results import first_field
from fkdiff.taps.shadowing import shadow_of
from fkdiff.terms.memory import Batched, within_memory

__all__ = ["DECODERS", "Decoder", "blank", "decoder_for", "memoised_decode", "null_run", "yields"]

Call = Mapping[str, Any]


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
    half = vae.dtype == torch.float16 and config.get("force_upcast")
    if half:  # this autoencoder overflows in float16; the pipelines upcast it too
        vae.to(torch.float32)
    try:
        return _unit(vae.decode(z.to(vae.dtype), return_dict=False)[0])
    finally:
        if half:
            vae.to(torch.float16)


def _dit_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    return _unit(pipe.vae.decode(1 / pipe.vae.config.scaling_factor * z).sample)


def _flux_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    size = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = call.get("height") or size, call.get("width") or size
    return _pixels(pipe, pipe._unpack_latents(z, height, width, pipe.vae_scale_factor), call)


def _qwen_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    size = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = call.get("height") or size, call.get("width") or size
    z = pipe._unpack_latents(z, height, width, pipe.vae_scale_factor)
    return _wan_video(pipe, z, call)[:, 0]


def _cosmos_pixels(pipe: Any, z: Tensor, call: Call) -> Tensor:
    """The guardrail that follows reads whole numbers, and what it passes is what comes out."""
    frames = _wan_video(pipe, z / pipe.scheduler.config.sigma_data, call)
    return _unit((frames[:, 0] * 255).to(torch.uint8).float() / 255 * 2 - 1)


def _raw_pixels(pipe: Any, x: Tensor, call: Call) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


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
    start, end = call.get("audio_start_in_s") or 0.0, call.get("audio_end_in_s") or length
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
    """What the pipeline makes: "pixels", "video" or "audio"; told by its call if not known."""
    decoder = decoder_for(pipe)
    if decoder is not None:
        return decoder.inputs
    names = inspect.signature(type(pipe).__call__).parameters
    if any("waveform" in name or name.startswith("audio_") for name in names):
        return "audio"
    return "video" if {"num_frames", "num_videos_per_prompt"} & {*names} else "pixels"


@contextmanager
def memoised_decode(
    pipe: Any, holder: Batched, counted: Callable[[int], None]
) -> Iterator[dict[str, bool]]:
    """Decode equal latents once, a row at a time where asked, while the block lasts.

    The pipeline's tail decodes what the reward has just looked at; set `keep` in the yielded
    dictionary before the last transition, so that it finds those rows again.

    Arguments:
        pipe: A pipeline, with or without a `vae`.
        holder: With `micro_batch` None all rows are decoded at once, and one after the other with
            any number, or where memory runs out.
        counted: Gets the number of rows that were really decoded.
    """
    state = {"keep": False}
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield state
        return
    original, shadowed = vae.decode, vars(vae).get("decode")
    memory: dict[bytes, Tensor] = {}

    def decode(z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        if "num_frames" in kwargs:  # rows are frames here, and belong together
            counted(len(z))
            return original(z, *args, return_dict=return_dict, **kwargs)
        keys = [row.detach().cpu().float().numpy().tobytes() for row in z]
        rows = [i for i, k in enumerate(keys) if k not in memory and keys.index(k) == i]
        fresh: dict[bytes, Tensor] = {}
        if rows:
            fresh = dict(zip((keys[i] for i in rows), run(z, rows, args, kwargs), strict=True))
            counted(len(rows))
        samples = torch.stack([memory[k] if k in memory else fresh[k] for k in keys])
        if not rows:
            memory.clear()  # the tail has found them; its own copies need the room
        elif state["keep"]:
            memory.update(fresh)
        return DecoderOutput(sample=samples) if return_dict else (samples,)

    def run(z: Tensor, rows: list[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        def of(value: Any, part: list[int]) -> Any:
            per_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(z)
            return value[part] if per_row else value

        def few(_: int) -> Tensor:
            # At full resolution a row takes more than in the denoiser; VAE slicing takes one, too.
            size, out = 1 if holder.micro_batch else len(rows), []
            for part in (rows[i : i + size] for i in range(0, len(rows), size)):
                named = {name: of(value, part) for name, value in kwargs.items()}
                given = (of(value, part) for value in args)
                out.append(original(z[part], *given, return_dict=False, **named)[0])
            return torch.cat(out)

        return within_memory(holder, len(rows), few)

    vae.decode = decode
    try:
        yield state
    finally:
        if shadowed is None:
            del vae.decode
        else:
            vae.decode = shadowed


def null_run(pipe: Any, scheduler: Any, arguments: Call, template: Any, z: Tensor) -> Tensor:
    """Decode with the pipeline's own tail, for families that have no entry.

    Arguments:
        pipe: The pipeline, possibly in the middle of a run, which isn't disturbed.
        scheduler: Its untapped scheduler.
        arguments: Arguments of a call that yields `len(z)` samples.
        template: A network output, whose type and shape the silent network imitates.
        z: Latents, shape (n, *).

    Returns:
        Samples as the pipeline gives them for `output_type="pt"`; images and frames of those
        that return arrays all the same (DiT, DDPM) with channels moved first, waveforms of those
        that drop the channels (AudioLDM2) with one channel.
    """
    fixed = copy.deepcopy(scheduler)
    fixed.__class__ = _returning(type(scheduler), z)
    shadow = shadow_of(pipe, fixed, without=PREPARING)  # watched by the run, bound to its pipeline
    with ExitStack() as stack:
        for name in DENOISERS:
            module = getattr(pipe, name, None)
            if isinstance(module, torch.nn.Module):
                stack.enter_context(_silent(module, template))
        out = first_field(shadow(**{**arguments, "num_inference_steps": 2}))
    samples = torch.as_tensor(out if isinstance(out, Tensor) else np.asarray(out))
    if samples.ndim == 2:
        return samples[:, None]
    return samples if isinstance(out, Tensor) or samples.ndim < 4 else samples.movedim(-1, -3)


def _returning(base: type, z: Tensor) -> type:
    @functools.wraps(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        kwargs_are_dict = bound.arguments.get("return_dict", True)
        copies = len(bound.arguments["sample"]) // len(z)
        latents = torch.cat([z] * max(1, copies))
        if kwargs_are_dict:
            return SimpleNamespace(prev_sample=latents, pred_original_sample=latents)
        return latents, latents

    signature = inspect.signature(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    return type(base.__name__, (base,), {"step": step, "__module__": base.__module__})


@contextmanager
def _silent(module: torch.nn.Module, template: Any) -> Iterator[None]:
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        return blank(template, next(len(v) for v in values if isinstance(v, Tensor) and v.ndim))

    with calling(module, call):
        yield


def blank(template: Any, batch: int) -> Any:
    """Zeros of so many rows in the form of a network's output."""
    if isinstance(template[0], list):
        return ([torch.zeros_like(template[0][0])] * batch,)
    zeros = template[0].new_zeros(batch, *template[0].shape[1:])
    return type(template)(sample=zeros) if isinstance(template, dict) else (zeros,)
