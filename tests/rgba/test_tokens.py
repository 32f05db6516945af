"""Which tokens name the subject; prompts without nouns crash nothing."""

import pytest

from fkdiff.rgba.tokens import subject_spans, subject_tokens, without_background
from tests.tiny import build


@pytest.fixture(scope="module")
def pipes():
    return {name: build(name).pipe for name in ("sd", "sd3", "pixart")}


def test_spans():
    text = "A photo of a red guitar, on a white background"
    assert [text[a:b] for a, b in subject_spans(text)] == ["red", "guitar"]
    assert [text[a:b] for a, b in subject_spans(text, "Guitar")] == ["guitar"]
    assert without_background(text) == "A photo of a red guitar,"
    assert subject_spans("of the") and subject_spans("") == []


def test_tokens_by_offsets(pipes):
    # One token a letter: "a cat" is start, a, c, a, t, end.
    assert subject_tokens(pipes["sd"], "a cat") == [2, 3, 4]
    assert subject_tokens(pipes["sd"], "a cat", "a") == [1]


def test_the_two_texts_of_sd3_follow_each_other(pipes):
    found = subject_tokens(pipes["sd3"], "a cat", call={"max_sequence_length": 8})
    clip, t5 = [p for p in found if p < 77], [p for p in found if p >= 77]
    assert clip == [2, 3, 4] and t5 and max(t5) < 85


def test_no_words_no_tokens(pipes):
    assert subject_tokens(pipes["sd"], "") == []
    assert subject_tokens(pipes["pixart"], "?") == []

    class Own:
        model_max_length = 77

        def __call__(self, text, **_):
            raise NotImplementedError

    class Pipe:
        tokenizer = Own()

        def __call__(self):
            """A pipeline whose tokenizer tells no offsets."""

    assert subject_tokens(Pipe(), "a cat") == []


def test_bad_input_is_refused(pipes):
    with pytest.raises(ValueError, match="subject must be words of the prompt"):
        subject_tokens(pipes["sd"], "a cat", "dog")
    for words in ("x" * 90 + " cat", "a dog " * 40 + "cat"):
        with pytest.raises(ValueError, match="subject must be in the part of the prompt"):
            subject_tokens(pipes["sd"], words, "cat")


def test_a_prompt_is_cut_off_where_the_encoder_cuts_it(pipes):
    """77 CLIP tokens are a start, 75 of the text and an end; T5 has an end alone."""
    assert subject_tokens(pipes["sd"], "x" * 90) == list(range(1, 76))
    short = {"max_sequence_length": 8}
    full = subject_tokens(pipes["pixart"], "a cat and a dog", call={"max_sequence_length": 40})
    cut = subject_tokens(pipes["pixart"], "a cat and a dog", call=short)
    assert cut == [place for place in full if place < 7] and 0 < len(cut) < len(full)
    both = subject_tokens(pipes["sd3"], "a" * 60 + " " * 30 + "b" * 30, call=short)
    assert max(both) < 77 + 7 and min(both) == 1
