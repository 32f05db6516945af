"""Tiny text-to-image pipelines of the newer families, most of them flow matching transformers."""

from typing import Any

import diffusers as D
import torch
import transformers as T
from diffusers.pipelines.kolors import ChatGLMModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

from tests.tiny.parts import (
    LATENT_DIFFUSION,
    LetterTokenizer,
    Tiny,
    autoencoder,
    bert_tokenizer,
    clip_config,
    clip_tokenizer,
    flow_autoencoder,
    gemma_text,
    gemma_tokenizer,
    image_call,
    qwen_tokenizer,
    t5_encoder,
    t5_tokenizer,
    unet,
)


def flow(**config: Any) -> Any:
    return D.FlowMatchEulerDiscreteScheduler(shift=3.0, **config)


def lumina_2() -> Tiny:
    transformer = D.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 32, 32),
        cap_feat_dim=8,
    )
    pipe = D.Lumina2Pipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=flow_autoencoder(),
        text_encoder=gemma_text(),
        tokenizer=gemma_tokenizer(),
    )
    call = image_call(
        height=32, width=32, max_sequence_length=32, system_prompt="s", cfg_normalization=False
    )
    return Tiny(pipe, call, note="with `cfg_normalization=False`")


def qwen_image() -> Tiny:
    transformer = D.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = D.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 1.2, 0.8],
    )
    pipe = D.QwenImagePipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=T.Qwen2_5_VLForConditionalGeneration(qwen_config()),
        tokenizer=qwen_tokenizer(),
    )
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
    call = {"prompt": "a cat", "height": 16, "width": 16, "max_sequence_length": 16}
    # Its guided prediction is always rescaled to the conditional one's norm.
    return Tiny(pipe, {**call, "negative_prompt": "ugly", "true_cfg_scale": 4.0}, cond=None)


def qwen_config() -> Any:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return T.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=1,
        vision_end_token_id=2,
        vision_token_id=3,
        image_token_id=4,
        video_token_id=5,
    )


def hunyuan_dit() -> Tiny:
    transformer = D.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        hidden_size=16,
        in_channels=4,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=8,
    )
    bert = T.BertConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=64,
    )
    pipe = D.HunyuanDiTPipeline(
        transformer=transformer,
        vae=autoencoder(),
        scheduler=D.DDPMScheduler(
            **LATENT_DIFFUSION_PLAIN, prediction_type="v_prediction", clip_sample=False
        ),
        text_encoder=T.BertModel(bert),
        tokenizer=bert_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Tiny(pipe, image_call(use_resolution_binning=False))


LATENT_DIFFUSION_PLAIN = {
    k: LATENT_DIFFUSION[k] for k in ("beta_start", "beta_end", "beta_schedule")
}


def kolors() -> Tiny:
    text = ChatGLMConfig(
        num_layers=1,
        padded_vocab_size=64,
        hidden_size=32,
        ffn_hidden_size=16,
        kv_channels=16,
        num_attention_heads=2,
        seq_length=256,
        add_qkv_bias=True,
        multi_query_attention=True,
        multi_query_group_num=1,
        original_rope=True,
    )
    network = unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
        use_linear_projection=True,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
    )
    encoder = ChatGLMModel(text)
    for p in encoder.parameters():  # it leaves them as the memory was
        torch.nn.init.normal_(p, std=0.2)
    pipe = D.KolorsPipeline(
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=LetterTokenizer(),
        unet=network,
        scheduler=D.EulerDiscreteScheduler(**LATENT_DIFFUSION, timestep_spacing="leading"),
    )
    return Tiny(pipe, image_call())  # prompts are always padded to 256


def aura_flow() -> Tiny:
    transformer = D.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )
    text = T.UMT5Config(vocab_size=128, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=1)
    pipe = D.AuraFlowPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=autoencoder(),
        text_encoder=T.UMT5EncoderModel(text),
        tokenizer=t5_tokenizer(),
    )
    return Tiny(pipe, image_call(max_sequence_length=8))


def chroma() -> Tiny:
    transformer = D.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    pipe = D.ChromaPipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=flow_autoencoder(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    return Tiny(pipe, image_call(max_sequence_length=8))


def z_image() -> Tiny:
    transformer = D.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[128, 16, 16],
    )
    text = T.Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=300,
        head_dim=8,
    )
    pipe = D.ZImagePipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=flow_autoencoder(),
        text_encoder=T.Qwen3Model(text),
        tokenizer=qwen_tokenizer(),
    )
    # It guides by cond + g (cond - uncond).
    return Tiny(pipe, image_call(guidance_scale=4.0, max_sequence_length=16))


def hidream() -> Tiny:
    """Its network is given the text states of all layers of a language model, layers first."""
    transformer = D.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    llama = T.LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=300,
        attn_implementation="eager",
    )
    pipe = D.HiDreamImagePipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=flow_autoencoder(),
        text_encoder=T.CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T.CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=T.LlamaForCausalLM(llama),
        tokenizer_4=qwen_tokenizer(),
    )
    pipe.default_sample_size = 8  # it brings every picture to this area
    return Tiny(pipe, image_call(max_sequence_length=8))
