"""Text that is shown as it grows, and ends before a stop."""

import pytest

from mdel_assets.serving.growing_text import GrowingText
from mdel_assets.serving.orders import ScoredToken


def shown(words, *, stops, is_ended=True):
    """Return the pieces shown for words that come one after the other, and the tokens with them."""
    text = GrowingText(lambda number: words[number], lambda: "", stops=stops)
    pieces, tokens = [], []
    for number in range(len(words)):
        piece, with_it = text.put(ScoredToken(number, start=0))
        pieces.append(piece)
        tokens += with_it
        if text.is_stopped:
            return pieces, tokens
    if is_ended:
        piece, with_it = text.end()
        pieces.append(piece)
        tokens += with_it
    return pieces, tokens


@pytest.mark.parametrize(
    ("words", "stops", "pieces"),
    [
        (["ab", "cd"], [], ["ab", "cd", ""]),
        (["ab", "cd"], ["x"], ["ab", "cd", ""]),
        # What may begin a stop is held back until it is known not to.
        (["a\n", "b"], ["\n\n"], ["a", "\nb", ""]),
        (["a\n", "\nb"], ["\n\n"], ["a", ""]),
        (["a\n"], ["\n\n"], ["a", "\n"]),
        (["aab"], ["ab"], ["a"]),
        (["a", "a", "b"], ["ab"], ["", "a", ""]),
        # The first stop in the text ends it, whatever the order they are given in.
        (["one two three"], ["three", "two"], ["one "]),
        (["", "x"], ["xy"], ["", "", "x"]),
    ],
)
def test_text_is_shown_once_it_cannot_belong_to_a_stop(words, stops, pieces):
    assert shown(words, stops=stops)[0] == pieces


def test_tokens_come_with_their_text_and_those_behind_the_end_do_not_come():
    pieces, tokens = shown(["ab", "c", "\n", "\nde", "f"], stops=["\n\n"])
    assert pieces == ["ab", "c", "", ""]
    assert [(token.id, token.start) for token in tokens] == [(0, 0), (1, 2)]


def test_a_token_without_text_of_its_own_comes_with_the_next_or_at_the_end():
    """The bytes of one character may be spread over several tokens."""
    _, tokens = shown(["", "é", ""], stops=[])
    assert [(token.id, token.start) for token in tokens] == [(0, 0), (1, 0), (2, 1)]


def test_an_end_of_text_token_is_the_last_and_has_no_text():
    text = GrowingText(lambda _: "ab", lambda: "c", stops=[])
    text.put(ScoredToken(5, start=0))
    assert text.end(token=ScoredToken(0, start=0)) == ("c", (ScoredToken(0, start=3),))


def test_a_stop_that_the_held_back_rest_completes_ends_the_text():
    text = GrowingText(lambda _: "a\n", lambda: "\n", stops=["\n\n"])
    assert text.put(ScoredToken(5, start=0))[0] == "a"
    assert text.end() == ("", ())
    assert text.is_stopped
