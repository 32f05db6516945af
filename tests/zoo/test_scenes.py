"""Scenes, captions and the words they are made of."""

import zlib

import numpy as np
import pytest

from fkdiff import zoo
from fkdiff.zoo import words
from fkdiff.zoo.negatives import hard_negatives, wrong_captions
from fkdiff.zoo.parse import parse
from fkdiff.zoo.prompt_lists import draw_lists
from fkdiff.zoo.render import layout
from fkdiff.zoo.scenes import (
    KINDS,
    Scene,
    Thing,
    caption,
    held_out_pair,
    is_held_out,
    render,
    sample_scene,
)
from fkdiff.zoo.sprites import Sprites, recolour


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene("background", (), "white"), "a white background"),
        (Scene("background", (), "orange"), "an orange background"),
        (Scene("single", (Thing("owl"),), "blue"), "an owl on a blue background"),
        (
            Scene("pair", (Thing("cat"), Thing("pizza")), "red"),
            "a cat and a pizza on a red background",
        ),
        (
            Scene("three", (Thing("cat"), Thing("apple"), Thing("bus")), "red"),
            "a cat, an apple and a bus on a red background",
        ),
        (
            Scene("relation", (Thing("cat"), Thing("pizza")), "pink", "to the left of"),
            "a cat to the left of a pizza on a pink background",
        ),
        (Scene("count", (Thing("fish"),), "pink", count=5), "five fish on a pink background"),
        (Scene("count", (Thing("cactus"),), "pink", count=2), "two cacti on a pink background"),
        (
            Scene("binding", (Thing("apple", "blue"), Thing("car", "red")), "white"),
            "a blue apple and a red car on a white background",
        ),
    ],
)
def test_caption_of_each_kind(scene: Scene, text: str) -> None:
    assert caption(scene) == scene.caption == text


def test_forty_objects_and_ten_backgrounds_of_one_word_each() -> None:
    assert len(words.OBJECTS) == 40
    assert len(words.BACKGROUNDS) == 10
    assert all(word.isalpha() for word in [*words.OBJECTS, *words.BACKGROUNDS])
    assert set(words.COLOURS) <= set(words.BACKGROUNDS)
    assert set(words.BINDABLE) <= set(words.OBJECTS)


@pytest.mark.parametrize("kind", KINDS)
def test_training_never_shows_what_is_held_out(kind: str) -> None:
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    scenes = [sample_scene(rng, kind=kind) for _ in range(400)]
    assert not any(map(is_held_out, scenes))
    assert all(scene.kind == kind for scene in scenes)
    for scene in scenes:
        assert not zoo.unknown_words(scene.caption)


@pytest.mark.parametrize("kind", ["pair", "three", "four", "relation", "binding"])
def test_held_out_split_shows_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(3)
    assert all(is_held_out(sample_scene(rng, kind=kind, split="held_out")) for _ in range(50))


def test_held_out_pairs_are_about_a_tenth_and_fixed() -> None:
    pairs = [(a, b) for a in words.OBJECTS for b in words.OBJECTS if a < b]
    share = np.mean([held_out_pair(*pair) for pair in pairs])
    assert 0.07 < share < 0.13
    assert all(held_out_pair(a, b) == held_out_pair(b, a) for a, b in pairs)
    # A changed rule would silently move training scenes into the test split.
    assert sum(held_out_pair(a, b) for a, b in pairs) == 76


def test_kind_without_held_out_scenes_is_refused() -> None:
    with pytest.raises(ValueError, match='use split="all"'):
        sample_scene(np.random.default_rng(0), kind="single", split="held_out")
    with pytest.raises(ValueError, match="kind must be one of"):
        sample_scene(np.random.default_rng(0), kind="singel")


@pytest.mark.parametrize("kind", KINDS)
def test_render_is_a_function_of_the_generator(kind: str, sprites: Sprites) -> None:
    scene = sample_scene(np.random.default_rng(5), kind=kind)
    first, again, other = (render(scene, sprites, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("relation", words.RELATIONS)
def test_relation_holds_in_the_layout(relation: str) -> None:
    scene = Scene("relation", (Thing("cat"), Thing("owl")), "red", relation)
    for seed in range(50):
        (_, side, x, y), (_, _, u, v) = layout(scene, np.random.default_rng(seed))
        ahead = {
            "to the left of": u - x,
            "to the right of": x - u,
            "above": v - y,
            "below": y - v,
        }[relation]
        assert ahead >= side
        assert 0 <= min(x, y, u, v) <= max(x, y, u, v) <= 64 - side


def test_counts_show_as_many_sprites() -> None:
    for count in (2, 3, 4, 5):
        scene = Scene("count", (Thing("cat"),), "red", count=count)
        assert len(layout(scene, np.random.default_rng(count))) == count


def test_recolouring_keeps_greys_and_alpha() -> None:
    art = np.zeros((4, 4, 4), np.float32)
    art[:2] = (0.9, 0.1, 0.1, 1.0)
    art[2:] = (0.5, 0.5, 0.5, 0.5)
    blue = recolour(art, "blue")
    assert blue[0, 0].argmax() in (2, 3)
    assert blue[0, 0, 2] > 0.8 > 0.3 > blue[0, 0, 0]
    assert np.allclose(blue[2:], art[2:], atol=1e-6)


def test_unknown_words_come_with_the_nearest() -> None:
    assert zoo.unknown_words("A Cat on a red background!") == {}
    found = zoo.unknown_words("a zebra and a pinguin")
    assert list(found) == ["zebra", "pinguin"]
    assert found["pinguin"][0] == "penguin"


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_captions_are_wrong_and_known(kind: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        scene = sample_scene(rng, kind=kind)
        wrong = [*wrong_captions(scene, rng).values(), *hard_negatives(scene, rng, 3)]
        assert scene.caption not in wrong
        assert not zoo.unknown_words(" ".join(wrong))


def test_prompt_lists_are_the_drawn_ones_disjoint_and_known() -> None:
    lists = draw_lists()
    for name, lines in lists.items():
        assert zoo.prompts(name) == lines
        assert not zoo.unknown_words(" ".join(lines))
    everything = [line for lines in lists.values() for line in lines]
    assert len(set(everything)) == len(everything) == 320


def test_unknown_prompt_list_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="demo"):
        zoo.prompts("test")


@pytest.mark.parametrize("kind", KINDS)
def test_parse_reads_captions_back(kind: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(100):
        scene = sample_scene(rng, kind=kind, split="all")
        assert parse(scene.caption) == scene


def test_parse_refuses_other_texts() -> None:
    with pytest.raises(ValueError, match="caption must be one that scenes have"):
        parse("a zebra on a red background")
