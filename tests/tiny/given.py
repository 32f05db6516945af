"""Tiny pipelines that are given a picture or its embedding, beside those of the set-ups."""

from dataclasses import replace

import diffusers as D
import torch
import transformers as T
from PIL import Image

from tests.tiny.parts import Tiny
from tests.tiny.video import ltx, wan

__all__ = ["embedded_kandinsky", "ltx_from_image", "painted", "wan_from_image"]


def painted(size: int, shade: int = 0) -> Image.Image:
    """A picture of two colours, another one for each shade."""
    picture = Image.new("RGB", (size, size), (shade, 90, 200 - shade))
    picture.paste((250, shade, 40), (0, 0, size // 2, size))
    return picture


def ltx_from_image() -> Tiny:
    tiny = ltx()
    pipe = D.LTXImageToVideoPipeline(**tiny.pipe.components)
    return replace(tiny, pipe=pipe, call={**tiny.call, "image": painted(32)})


def wan_from_image() -> Tiny:
    """Wan 2.1, whose network also reads an embedding of the picture."""
    tiny = wan()
    transformer = D.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        image_dim=4,
    )
    vision = T.CLIPVisionConfig(
        hidden_size=4,
        projection_dim=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4,
        intermediate_size=16,
        patch_size=1,
    )
    pipe = D.WanImageToVideoPipeline(
        **{k: v for k, v in tiny.pipe.components.items() if not k.startswith("transformer")},
        transformer=transformer,
        image_encoder=T.CLIPVisionModel(vision),
        image_processor=T.CLIPImageProcessor(crop_size=4, size=4),
    )
    return replace(tiny, pipe=pipe, call={**tiny.call, "image": painted(16)}, count=None)


def embedded_kandinsky() -> Tiny:
    """Its prompts are embeddings of pictures, and its steps are taken by position."""
    unet = D.UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        encoder_hid_dim=6,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=6,
        attention_head_dim=4,
        norm_num_groups=2,
        resnet_time_scale_shift="scale_shift",
    )
    movq = D.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        in_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        out_channels=3,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        vq_embed_dim=4,
    )
    scheduler = D.DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        thresholding=False,
        prediction_type="epsilon",
    )
    pipe = D.KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)
    embeds = torch.linspace(-1, 1, 6)[None]
    call = {
        "image_embeds": embeds,
        "negative_image_embeds": torch.zeros(1, 6),
        "height": 64,
        "width": 64,
        "guidance_scale": 4.0,
    }
    return Tiny(pipe, call, cond=4)
