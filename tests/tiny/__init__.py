"""Tiny, randomly initialised pipelines, built in code without a network.

The shapes are the smallest that the stock classes accept. Every network's weights are perturbed
after initialisation: many output layers start at zero, and then conditional and unconditional
predictions would agree and tests of guidance would show nothing.
"""

from collections.abc import Callable

import torch

from tests.tiny import audio, editing, images, newer_images, sounding, video
from tests.tiny.parts import Tiny

__all__ = ["SETUPS", "Tiny", "build", "prepared"]

NETWORKS = ("unet", "transformer", "controlnet", "vocoder")


def build(name: str) -> Tiny:
    """A fresh pipeline of the set-up, the same weights every time; see `SETUPS`."""
    return prepared(SETUPS[name])


def prepared(make: Callable[[], Tiny]) -> Tiny:
    """What a set-up makes, seeded, perturbed and silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = make()
    generator = torch.Generator().manual_seed(3)
    for module in tiny.pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    for network in NETWORKS:
        for p in getattr(getattr(tiny.pipe, network, None), "parameters", list)():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    tiny.pipe.set_progress_bar_config(disable=True)
    return tiny


SETUPS: dict[str, Callable[[], Tiny]] = {
    "sd": images.stable_diffusion,
    "sdxl": images.stable_diffusion_xl,
    "sd3": images.stable_diffusion_3,
    "flux": images.flux,
    "flux_cfg": images.flux_with_true_cfg,
    "pixart": images.pixart_sigma,
    "sana": images.sana,
    "dit": images.dit,
    "ddpm": images.ddpm,
    "stable_audio": audio.stable_audio,
    "audioldm2": audio.audio_ldm_2,
    "cogvideox": video.cogvideox,
    "wan": video.wan,
    "lumina2": newer_images.lumina_2,
    "qwenimage": newer_images.qwen_image,
    "hunyuandit": newer_images.hunyuan_dit,
    "kolors": newer_images.kolors,
    "auraflow": newer_images.aura_flow,
    "chroma": newer_images.chroma,
    "zimage": newer_images.z_image,
    "hidream": newer_images.hidream,
    "cosmos2": video.cosmos_2,
    "ltx": video.ltx,
    "mochi": video.mochi,
    "ltx2": sounding.ltx2,
    "sd_img2img": editing.sd_from_image,
    "sdxl_img2img": editing.sdxl_from_image,
    "flux_img2img": editing.flux_from_image,
    "sd_inpaint": editing.sd_inpainting,
    "sd_inpaint_9": editing.sd_inpainting_with_its_own_network,
    "sdxl_inpaint": editing.sdxl_inpainting,
    "flux_inpaint": editing.flux_inpainting,
    "sd_controlnet": editing.sd_with_controlnet,
    "flux_control": editing.flux_with_control,
    "flux_control_img2img": editing.flux_with_control_from_image,
    "flux_controlnet": editing.flux_with_controlnet,
    "lcm": editing.latent_consistency,
    "sd_turbo": editing.sd_turbo,
    "sd3_modular": editing.sd3_modular,
}
