"""Tiny text-to-image and class-to-image pipelines."""

import diffusers as D
import transformers as T

from tests.tiny.parts import (
    LATENT_DIFFUSION,
    Tiny,
    autoencoder,
    clip_config,
    clip_tokenizer,
    flow_autoencoder,
    gemma_text,
    gemma_tokenizer,
    image_call,
    t5_encoder,
    t5_tokenizer,
    unet,
)


def stable_diffusion() -> Tiny:
    pipe = D.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=T.CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        scheduler=D.DDIMScheduler(**LATENT_DIFFUSION, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Tiny(pipe, image_call())


def stable_diffusion_xl() -> Tiny:
    network = unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
        use_linear_projection=True,
    )
    pipe = D.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=T.CLIPTextModel(clip_config()),
        text_encoder_2=T.CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=network,
        scheduler=D.EulerDiscreteScheduler(**LATENT_DIFFUSION, timestep_spacing="leading"),
        add_watermarker=False,
    )
    return Tiny(pipe, image_call())


def stable_diffusion_3() -> Tiny:
    transformer = D.SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
    )
    pipe = D.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_autoencoder(),
        text_encoder=T.CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T.CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )
    return Tiny(pipe, image_call(max_sequence_length=8))


def flux(in_channels: int = 16) -> Tiny:
    transformer = D.FluxTransformer2DModel(
        patch_size=1,
        in_channels=in_channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    pipe = D.FluxPipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flow_autoencoder(),
        text_encoder=T.CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    return Tiny(
        pipe, image_call(guidance_scale=3.5, max_sequence_length=8), cond=1, note="distilled"
    )


def flux_with_true_cfg() -> Tiny:
    tiny = flux()
    guided = {**tiny.call, "negative_prompt": "ugly", "true_cfg_scale": 4.0}
    return Tiny(tiny.pipe, guided, cond=4, note="true CFG")


def pixart_sigma() -> Tiny:
    transformer = D.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipe = D.PixArtSigmaPipeline(
        transformer=transformer,
        vae=autoencoder(),
        scheduler=D.DPMSolverMultistepScheduler(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    return Tiny(pipe, image_call(use_resolution_binning=False, max_sequence_length=8))


def sana() -> Tiny:
    transformer = D.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
    )
    vae = D.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    pipe = D.SanaPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=D.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=gemma_text(),
        tokenizer=gemma_tokenizer(),
    )
    plain = {"complex_human_instruction": None, "use_resolution_binning": False}
    return Tiny(pipe, image_call(height=32, width=32, max_sequence_length=8, **plain))


def dit() -> Tiny:
    transformer = D.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    pipe = D.DiTPipeline(
        transformer=transformer, vae=autoencoder(), scheduler=D.DDIMScheduler(clip_sample=False)
    )
    return Tiny(pipe, {"class_labels": [1], "guidance_scale": 4.0}, count=None, cond=4, other=[2])


def ddpm() -> Tiny:
    network = D.UNet2DModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipe = D.DDPMPipeline(unet=network, scheduler=D.DDPMScheduler())
    return Tiny(pipe, {}, count="batch_size", cond=1)
