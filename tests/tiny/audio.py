"""Tiny text-to-audio pipelines."""

import diffusers as D
import transformers as T
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

from tests.tiny.parts import (
    LATENT_DIFFUSION,
    Tiny,
    autoencoder,
    roberta_tokenizer,
    t5_encoder,
    t5_tokenizer,
)


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
