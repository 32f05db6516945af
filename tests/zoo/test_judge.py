"""The judge: what it counts as meeting a caption, and what it is trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fkdiff.zoo.judge import CLASSES, TINTS, Found, Judge, JudgeNet, Sight, met
from fkdiff.zoo.labels import agreement, read_sheet
from fkdiff.zoo.parse import parse
from fkdiff.zoo.sprites import Sprites
from fkdiff.zoo.verifier import draw, exact_share

CAT, OWL = Found("cat", "own", 1, 3), Found("owl", "own", 6, 3)


def _met(text: str, *objects: Found, ground: str = "red", clean: bool = True) -> bool:
    return met(parse(text), Sight(ground, objects, clean))


def test_all_that_is_said_must_be_found_and_nothing_else() -> None:
    text = "a cat and an owl on a red background"
    assert _met(text, CAT, OWL)
    assert _met(text, OWL, CAT)
    assert not _met(text, CAT)
    assert not _met(text, CAT, OWL, replace(OWL, x=3))
    assert not _met(text, CAT, replace(OWL, name="bee"))
    assert not _met(text, CAT, OWL, ground="blue")
    assert not _met(text, CAT, OWL, clean=False)


@pytest.mark.parametrize(
    ("relation", "place"),
    [
        ("to the left of", (-3, 1)),
        ("to the right of", (3, -1)),
        ("above", (0, -2)),
        ("below", (1, 3)),
    ],
)
def test_relations_hold_for_one_side_alone(relation: str, place: tuple[int, int]) -> None:
    text = f"a cat {relation} an owl on a red background"
    right = replace(CAT, x=4 + place[0], y=4 + place[1])
    wrong = replace(CAT, x=4 - place[0], y=4 - place[1])
    across = replace(CAT, x=4 + place[1], y=4 + place[0])
    centre = replace(OWL, x=4, y=4)
    assert _met(text, right, centre)
    assert not _met(text, wrong, centre)
    assert not _met(text, across, centre)


def test_counts_are_exact() -> None:
    cats = [replace(CAT, x=x) for x in (0, 3, 6)]
    assert _met("three cats on a red background", *cats)
    assert not _met("two cats on a red background", *cats)


def test_colours_belong_to_their_objects() -> None:
    text = "a blue apple and a red car on a red background"
    apple, car = Found("apple", "blue", 1, 1), Found("car", "red", 6, 6)
    assert _met(text, apple, car)
    assert _met(text, apple, replace(car, colour="own"))  # a car is red of itself
    assert not _met(text, replace(apple, colour="red"), replace(car, colour="blue"))
    assert not _met(text, replace(apple, colour="own"), car)


def test_between_is_told_from_the_middle_alone() -> None:
    text = "a cat between an owl and a bee on a red background"
    ends = (Found("owl", "own", 1, 1), Found("bee", "own", 6, 6))
    assert _met(text, replace(CAT, x=3, y=4), *ends)
    assert not _met(text, replace(CAT, x=7, y=7), *ends)
    assert not _met(text, replace(CAT, x=6, y=1), *ends)


def test_sizes_and_one_colour_and_copies_beside_another() -> None:
    text = "a big cat and a small owl on a red background"
    big, small = replace(CAT, side=40.0), replace(OWL, side=16.0)
    assert _met(text, big, small)
    assert not _met(text, replace(CAT, side=16.0), replace(OWL, side=40.0))
    text = "a key and a car of the same colour on a white background"
    key, car = Found("key", "blue", 1, 1), Found("car", "blue", 6, 6)
    assert _met(text, key, car, ground="white")
    assert _met(text, replace(key, colour="red"), replace(car, colour="own"), ground="white")
    assert not _met(text, key, replace(car, colour="own"), ground="white")
    cats = [replace(CAT, x=x) for x in (0, 3)]
    assert _met("two cats and an owl on a red background", *cats, OWL)
    assert not _met("two cats and an owl on a red background", CAT, OWL, replace(OWL, y=6))


def test_labels_lie_where_the_art_is(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        drawn = draw(sprites, rng)
        rows, columns = (drawn.classes > 0).nonzero()
        flat = drawn.image[0, 0]
        for row, column in zip(rows, columns, strict=True):
            cell = drawn.image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].astype(int)
            seen.add(CLASSES[drawn.classes[row, column]])
            assert np.abs(cell - flat).max() > 8 or (drawn.classes == -100).any()
        assert drawn.image.shape == (64, 64, 3)
        assert (drawn.tints[drawn.classes == 0] == -100).all()
    assert "unclean" in seen
    assert len(seen) > 25


def _net_that_sees(place: tuple[int, int], name: str) -> JudgeNet:
    """A net that answers the same to every picture: one object, nothing else."""
    net = JudgeNet()

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kinds = torch.zeros(len(x), len(CLASSES), 8, 8)
        kinds[:, 0] = 5
        kinds[:, CLASSES.index(name), place[1], place[0]] = 9
        kinds[:, CLASSES.index("bee"), place[1], place[0] - 1] = 8
        tints, grounds = torch.zeros(len(x), len(TINTS), 8, 8), torch.eye(10)[:1]
        return kinds, tints, torch.zeros(len(x), 8, 8), grounds.repeat(len(x), 1)

    net.forward = forward
    return net


def test_one_object_in_two_cells_is_one() -> None:
    judge = Judge(_net_that_sees((4, 2), "cat"))
    (sight,) = judge.look(torch.zeros(1, 3, 64, 64))
    assert sight == Sight("white", (Found("cat", "own", 4, 2),))
    assert judge.passes(torch.zeros(1, 3, 64, 64), ["a cat on a white background"]) == [True]
    (unclean,) = Judge(_net_that_sees((4, 2), "unclean")).look(torch.zeros(1, 3, 64, 64))
    assert not unclean.clean


def test_judge_refuses_other_sizes_and_lengths() -> None:
    judge = Judge(JudgeNet())
    with pytest.raises(ValueError, match=r"images must be \(n, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        judge.look(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="prompts must be one per picture, got 0 for 1"):
        judge.passes(torch.zeros(1, 3, 64, 64), [])


def test_an_untrained_judge_fails_the_exam(sprites: Sprites) -> None:
    torch.manual_seed(0)
    assert exact_share(Judge(JudgeNet()), sprites, None, each=2)["all"] < 0.3


def test_labels_are_read_beside_their_pictures_and_compared(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 64), (10 * i, 0, 0)) for i in range(20)]
    sheet = Image.new("RGB", (640, 128))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 10 * 64, i // 10 * 64))
    sheet.save(tmp_path / "labelled.png")
    labels = [{"prompt": str(i), "met": i % 2 == 0} for i in range(20)]
    told = {"emoji": "", "pictures": labels}
    (tmp_path / "labelled.json").write_text(json.dumps(told))
    images, prompts, met = read_sheet(tmp_path)
    assert images.shape == (20, 3, 64, 64) and prompts[13] == "13" and met[13] is False
    assert images[13].amax((1, 2)).tolist() == pytest.approx([130 / 255, 0, 0])

    class Bright:
        def passes(self, images, prompts):
            return (images[:, 0].mean((1, 2)) > 0.3).tolist()

    found = agreement(Bright(), tmp_path)  # pyright: ignore[reportArgumentType]
    assert found["agreement"] == 0.5 and found["pictures"] == 20
    labels[3]["met"] = None
    (tmp_path / "labelled.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="got null for picture 3"):
        read_sheet(tmp_path)
