"""Tiny text-to-video pipelines, and Cosmos, which draws a picture as a video of one frame."""

from typing import Any

import diffusers as D
import torch

from tests.tiny.images import stable_diffusion
from tests.tiny.parts import (
    Tiny,
    image_call,
    t5_encoder,
    t5_tokenizer,
)


def cogvideox() -> Tiny:
    transformer = D.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=8,
    )
    vae = D.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    pipe = D.CogVideoXPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=D.CogVideoXDPMScheduler(clip_sample=False),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    call = image_call(num_frames=8, max_sequence_length=8)
    return Tiny(pipe, call, "video", None)


def wan() -> Tiny:
    transformer = D.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = D.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipe = D.WanPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=D.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    call = image_call(num_frames=5, negative_prompt="ugly", max_sequence_length=8)
    return Tiny(pipe, call, "video", "num_videos_per_prompt")


def ltx(timestep_conditioning: bool = False) -> Tiny:
    transformer = D.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=32,
    )
    vae = D.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=2,
        timestep_conditioning=timestep_conditioning,
    )
    pipe = D.LTXPipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    call = image_call(height=32, width=32, num_frames=3, max_sequence_length=8)
    return Tiny(pipe, call, "video", None)


def mochi() -> Tiny:
    transformer = D.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=8,
    )
    vae = D.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    pipe = D.MochiPipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    call = image_call(num_frames=7, max_sequence_length=8)
    return Tiny(pipe, call, "video", "num_videos_per_prompt")


class Guardrail(torch.nn.Module):
    """In place of NVIDIA's, which must be there: passes everything on."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def cosmos_2() -> Tiny:
    transformer = D.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        extra_pos_embed_type=None,
    )
    vae = D.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 1.2, 0.8],
    )
    pipe = D.Cosmos2TextToImagePipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_karras_sigmas=True),
        vae=vae,
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        safety_checker=Guardrail(),  # pyright: ignore[reportArgumentType]
    )
    # It guides by cond + g (cond - uncond), and divides a difference by the smallest sigma, .002.
    call = image_call(guidance_scale=4.0, negative_prompt="ugly", max_sequence_length=8)
    return Tiny(pipe, call, rounding=1e-3)


def animatediff() -> Tiny:
    """Its texts are repeated for the frames, and its state has frames third."""
    network = D.UNetMotionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"),
        cross_attention_dim=32,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=2,
        use_motion_mid_block=True,
    )
    parts = stable_diffusion().pipe.components
    pipe = D.AnimateDiffPipeline(
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"],
        unet=network,
        motion_adapter=D.MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=2,
        ),
        scheduler=parts["scheduler"],
    )
    return Tiny(pipe, image_call(num_frames=3), "video", None)
