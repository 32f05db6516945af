"""Tiny, randomly initialised pipelines of twelve families, built in code without a network.

The shapes are the smallest that the stock classes accept. Every network's weights are perturbed
after initialisation: many output layers start at zero, and then conditional and unconditional
predictions would agree and tests of guidance would show nothing.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers as D
import torch
import transformers as T
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from tokenizers.pre_tokenizers import ByteLevel

__all__ = ["SETUPS", "Tiny", "build"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LATENT_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Tiny:
    """A pipeline, the arguments that draw one sample, and how it is asked for several.

    Arguments:
        pipe: The pipeline.
        call: Keyword arguments for one sample, without steps and generator.
        inputs: What it yields: "pixels", "video" or "audio".
        count: Keyword for the samples a prompt; None where prompts or labels are repeated.
    """

    pipe: Any
    call: dict[str, Any]
    inputs: str = "pixels"
    count: str | None = "num_images_per_prompt"

    def rows(self, n: int) -> dict[str, Any]:
        """Keyword arguments for `n` samples of the one prompt."""
        if self.count:
            return {**self.call, self.count: n}
        repeated = {
            k: [v] * n if k == "prompt" else v * n
            for k, v in self.call.items()
            if k in ("prompt", "class_labels")
        }
        return {**self.call, **repeated}


def build(name: str) -> Tiny:
    """A fresh pipeline of the set-up, the same weights every time; see `SETUPS`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = SETUPS[name]()
    generator = torch.Generator().manual_seed(3)
    for module in tiny.pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    for network in ("unet", "transformer", "vocoder"):
        for p in getattr(getattr(tiny.pipe, network, None), "parameters", list)():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    tiny.pipe.set_progress_bar_config(disable=True)
    return tiny


@functools.cache
def clip_tokenizer() -> Any:
    words = ["<|startoftext|>", "!", "<|endoftext|>"]
    words += [c + end for c in sorted(ByteLevel.alphabet()) for end in ("", "</w>")]
    vocab = {word: i for i, word in enumerate(words)}
    return T.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="!")


@functools.cache
def roberta_tokenizer() -> Any:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocab = {word: i for i, word in enumerate(words)}
    return T.RobertaTokenizer(vocab=vocab, merges=[], model_max_length=77)


@functools.cache
def t5_tokenizer() -> Any:
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = words + [(c, -5.0) for c in LETTERS]
    return T.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=77)


@functools.cache
def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    vocab = {word: i for i, word in enumerate(words)}
    return T.GemmaTokenizer(vocab=vocab, merges=[], model_max_length=77)


def clip_config() -> Any:
    return T.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=1,
        vocab_size=1000,
        projection_dim=32,
    )


def t5_encoder() -> Any:
    config = T.T5Config(vocab_size=128, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=1)
    return T.T5EncoderModel(config)


def autoencoder(in_channels: int = 3, **config: Any) -> Any:
    return D.AutoencoderKL(
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
        **config,
    )


def flow_autoencoder() -> Any:
    return autoencoder(
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def unet(cross_attention_dim: int = 32, **config: Any) -> Any:
    return D.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=2,
        attention_head_dim=(2, 4),
        **config,
    )


def image_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "a cat", "height": 16, "width": 16, "guidance_scale": 5.0} | more


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


def flux() -> Tiny:
    transformer = D.FluxTransformer2DModel(
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
    pipe = D.FluxPipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flow_autoencoder(),
        text_encoder=T.CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    return Tiny(pipe, image_call(guidance_scale=3.5, max_sequence_length=8))


def flux_with_true_cfg() -> Tiny:
    tiny = flux()
    guided = {**tiny.call, "negative_prompt": "ugly", "true_cfg_scale": 4.0}
    return Tiny(tiny.pipe, guided)


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
    text = T.Gemma2Config(
        head_dim=16,
        hidden_size=8,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=2,
        vocab_size=64,
        attn_implementation="eager",
    )
    pipe = D.SanaPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=D.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=T.Gemma2Model(text),
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
    pipe = D.DiTPipeline(transformer=transformer, vae=autoencoder(), scheduler=D.DDIMScheduler())
    return Tiny(pipe, {"class_labels": [1], "guidance_scale": 4.0}, count=None)


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
    return Tiny(pipe, {}, count="batch_size")


def stable_audio() -> Tiny:
    transformer = D.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        out_channels=3,
        num_layers=1,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=4,
        cross_attention_input_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
    )
    vae = D.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    projection = StableAudioProjectionModel(
        text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32
    )
    pipe = D.StableAudioPipeline(
        transformer=transformer,
        vae=vae,
        # Its own CosineDPMSolverMultistepScheduler needs torchsde.
        scheduler=D.EDMDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        projection_model=projection,
    )
    call = {"prompt": "a cat", "guidance_scale": 5.0, "audio_end_in_s": 2.0}
    return Tiny(pipe, call, "audio", "num_waveforms_per_prompt")


def audio_ldm_2() -> Tiny:
    network = D.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),
    )
    text = {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_size": 8,
        "intermediate_size": 37,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": 1000,
        "projection_dim": 8,
    }
    audio = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "intermediate_size": 37,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 1,
        "hidden_size": 192,
        "projection_dim": 8,
        "patch_size": 2,
        "patch_stride": 2,
        "patch_embed_input_channels": 4,
    }
    language = T.GPT2LMHeadModel(
        T.GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=1000, n_positions=99)
    )
    language.config.max_new_tokens = 2
    vocoder = T.SpeechT5HifiGan(
        T.SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )
    pipe = D.AudioLDM2Pipeline(
        unet=network,
        vae=autoencoder(in_channels=1),
        scheduler=D.DDIMScheduler(**LATENT_DIFFUSION, clip_sample=False, set_alpha_to_one=False),
        text_encoder=T.ClapModel(
            T.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
        ),
        text_encoder_2=t5_encoder(),
        tokenizer=roberta_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        feature_extractor=T.ClapFeatureExtractor(feature_size=8, hop_length=7900),
        language_model=language,
        projection_model=D.AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
        ),
        vocoder=vocoder,
    )
    call = {"prompt": "a cat", "guidance_scale": 5.0, "audio_length_in_s": 0.005}
    return Tiny(pipe, call, "audio", "num_waveforms_per_prompt")


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
        scheduler=D.CogVideoXDPMScheduler(),
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


SETUPS: dict[str, Callable[[], Tiny]] = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "flux_cfg": flux_with_true_cfg,
    "pixart": pixart_sigma,
    "sana": sana,
    "dit": dit,
    "ddpm": ddpm,
    "stable_audio": stable_audio,
    "audioldm2": audio_ldm_2,
    "cogvideox": cogvideox,
    "wan": wan,
}
