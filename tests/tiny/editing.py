"""Tiny pipelines made of other pipelines' parts: from an image, into a hole, guided, few steps."""

from dataclasses import replace
from typing import Any

import diffusers as D
import torch

from tests.tiny.images import flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from tests.tiny.parts import LATENT_DIFFUSION, Tiny, image_call, unet

STEPS = {"num_inference_steps": 4, "strength": 0.75}  # three transitions, begun at the second


def picture(size: int = 16) -> torch.Tensor:
    return torch.linspace(0, 1, 3 * size * size).reshape(1, 3, size, size)


def hole(size: int = 16) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2] = 1
    return mask


def from_image(tiny: Tiny, kind: type, **more: Any) -> Tiny:
    """The same parts in a pipeline that starts from a picture."""
    call = {k: v for k, v in tiny.call.items() if k not in ("height", "width")}
    parts = {k: v for k, v in tiny.pipe.components.items() if k != "image_encoder"}
    if "safety_checker" in parts:
        parts["requires_safety_checker"] = False
    pipe = kind(**parts, **more)
    return replace(tiny, pipe=pipe, call={**call, **STEPS, "image": picture()})


def inpainting(tiny: Tiny, kind: type, **more: Any) -> Tiny:
    tiny = from_image(tiny, kind, **more)
    size = {"height": 16, "width": 16}
    return replace(tiny, call={**tiny.call, **size, "mask_image": hole()})


def sd_from_image() -> Tiny:
    return from_image(stable_diffusion(), D.StableDiffusionImg2ImgPipeline)


def sdxl_from_image() -> Tiny:
    return from_image(stable_diffusion_xl(), D.StableDiffusionXLImg2ImgPipeline)


def flux_from_image() -> Tiny:
    tiny = from_image(flux(), D.FluxImg2ImgPipeline)
    return replace(tiny, call={**tiny.call, "height": 16, "width": 16}, note="distilled")


def sd_inpainting() -> Tiny:
    return inpainting(stable_diffusion(), D.StableDiffusionInpaintPipeline)


def sd_inpainting_with_its_own_network() -> Tiny:
    """The network sees mask and masked image; nothing is pasted in."""
    tiny = stable_diffusion()
    tiny.pipe.register_modules(unet=unet(in_channels=9))
    tiny = inpainting(tiny, D.StableDiffusionInpaintPipeline)
    return replace(tiny, note="a network of 9 channels")


def sdxl_inpainting() -> Tiny:
    return inpainting(stable_diffusion_xl(), D.StableDiffusionXLInpaintPipeline)


def flux_inpainting() -> Tiny:
    return inpainting(flux(), D.FluxInpaintPipeline)


def sd_with_controlnet() -> Tiny:
    tiny = stable_diffusion()
    controlnet = D.ControlNetModel.from_unet(
        tiny.pipe.unet, conditioning_embedding_out_channels=(4, 8)
    )
    tiny = from_image(tiny, D.StableDiffusionControlNetPipeline, controlnet=controlnet)
    call = {k: v for k, v in tiny.call.items() if k not in STEPS}
    return Tiny(tiny.pipe, call)


def flux_with_control() -> Tiny:
    """The network sees a picture that the call itself encodes, drawn for each row."""
    tiny = flux(in_channels=32)
    parts = {
        k: v
        for k, v in tiny.pipe.components.items()
        if k not in ("image_encoder", "feature_extractor")
    }
    pipe = D.FluxControlPipeline(**parts)
    return replace(tiny, pipe=pipe, call={**tiny.call, "control_image": picture()})


def flux_with_control_from_image() -> Tiny:
    tiny = flux_with_control()
    pipe = D.FluxControlImg2ImgPipeline(**tiny.pipe.components)
    return replace(tiny, pipe=pipe, call={**tiny.call, **STEPS, "image": picture().flip(-1)})


def flux_with_controlnet() -> Tiny:
    tiny = flux()
    controlnet = D.FluxControlNetModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    for p in controlnet.parameters():
        torch.nn.init.normal_(p, std=0.05)
    pipe = D.FluxControlNetPipeline(**tiny.pipe.components, controlnet=controlnet)
    return replace(tiny, pipe=pipe, call={**tiny.call, "control_image": picture()})


def latent_consistency() -> Tiny:
    tiny = stable_diffusion()
    pipe = D.LatentConsistencyModelPipeline(
        **{k: v for k, v in tiny.pipe.components.items() if k not in ("unet", "scheduler")},
        unet=unet(time_cond_proj_dim=8),
        scheduler=D.LCMScheduler(),
        requires_safety_checker=False,
    )
    return Tiny(pipe, tiny.call, cond=1, note="distilled")


def sd_turbo() -> Tiny:
    tiny = stable_diffusion()
    tiny.pipe.scheduler = D.EulerAncestralDiscreteScheduler(
        **LATENT_DIFFUSION, timestep_spacing="trailing"
    )
    return Tiny(tiny.pipe, image_call(guidance_scale=0.0), cond=1, note="Turbo")


def sd3_modular() -> Tiny:
    tiny = stable_diffusion_3()
    blocks = D.StableDiffusion3AutoBlocks()
    pipe = blocks.init_pipeline()
    parts = {k: v for k, v in tiny.pipe.components.items() if v is not None}
    known = {k: v for k, v in parts.items() if k in pipe.component_names}
    pipe.update_components(**known, guider=D.ClassifierFreeGuidance(guidance_scale=5.0))
    call = {k: v for k, v in tiny.call.items() if k != "guidance_scale"}
    return Tiny(pipe, {**call, "negative_prompt": ""}, note="by its guider; no inpainting")
