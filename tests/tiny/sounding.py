"""A tiny pipeline that draws video and its sound together, stepped by two schedulers."""

import diffusers as D
import torch
import transformers as T
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from tests.tiny.parts import Tiny, gemma_tokenizer, image_call

__all__ = ["ltx2"]

WIDTH, LAYERS = 16, 1


def ltx2(scheduler: object | None = None) -> Tiny:
    autoencoder, sound = video_autoencoder(), sound_autoencoder()
    pipe = D.LTX2Pipeline(
        scheduler=scheduler or D.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        audio_vae=sound,
        text_encoder=text_encoder(),
        tokenizer=gemma_tokenizer(),
        connectors=connectors(),
        transformer=transformer(),
        vocoder=vocoder(sound.config.output_channels * sound.config.mel_bins),
    )
    call = image_call(height=32, width=32, num_frames=3, frame_rate=25.0, max_sequence_length=8)
    guided = {"negative_prompt": "ugly", "guidance_rescale": 0.0}
    for name, off in (("stg_scale", 0.0), ("modality_scale", 1.0)):
        guided |= {name: off, f"audio_{name}": off}
    # The pipeline mixes estimates and turns them back, which rounds.
    note, count = "Correct() is refused: sound is a second state", "num_videos_per_prompt"
    return Tiny(pipe, {**call, **guided}, "video", count, rounding=1e-5, note=note)


def transformer() -> D.LTX2VideoTransformer3DModel:
    return D.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )


def connectors() -> LTX2TextConnectors:
    return LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=LAYERS + 1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )


def video_autoencoder() -> D.AutoencoderKLLTX2Video:
    return D.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
    )


def sound_autoencoder() -> D.AutoencoderKLLTX2Audio:
    return D.AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )


def vocoder(channels: int) -> LTX2Vocoder:
    return LTX2Vocoder(
        in_channels=channels,
        hidden_channels=16,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )


def text_encoder() -> T.Gemma3ForConditionalGeneration:
    text = T.Gemma3TextConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=64,
    )
    vision = T.SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    config = T.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return T.Gemma3ForConditionalGeneration(config).to(torch.float32)
