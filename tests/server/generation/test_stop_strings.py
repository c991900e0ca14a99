"""Stop strings: found however the text is cut into pieces, and nothing of them is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.generation.stop_strings import StopStringMatcher


def shown(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopStringMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    if matcher.matched is None:
        text += matcher.finish()
    return text, matcher.matched


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["abc"], ("abc", None)),
        (["END"], ["one EN", "D two"], ("one ", "END")),
        (["END"], ["E", "N", "D"], ("", "END")),
        (["END"], ["one EN", "X"], ("one ENX", None)),
        (["END"], ["one EN"], ("one EN", None)),
        (["aab"], ["aaa", "b"], ("a", "aab")),
        (["b", "abc"], ["abc"], ("a", "b")),
        (["cd", "bcd"], ["abcd"], ("a", "bcd")),
        (["\n\n"], ["x\n", "\ny"], ("x", "\n\n")),
    ],
)
def test_text_is_shown_up_to_the_stop(stops: list[str], pieces: list[str], expected: tuple[str, str | None]) -> None:
    assert shown(stops, pieces) == expected


def test_a_beginning_of_a_stop_string_is_held_back_and_let_go() -> None:
    matcher = StopStringMatcher(["END"])
    assert matcher.push("x E") == "x "
    assert matcher.push("N") == ""
    assert matcher.push("G") == "ENG"


def test_after_a_match_nothing_follows() -> None:
    matcher = StopStringMatcher(["."])
    assert matcher.push("a.b") == "a"
    assert matcher.push("c") == ""
    assert matcher.finish() == ""


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    pieces=st.lists(st.text("abc", max_size=3), max_size=12),
)
def test_the_result_does_not_depend_on_the_pieces(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    assert shown(stops, pieces) == shown(stops, [text]) == shown(stops, list(text))
    if all(stop not in text for stop in stops):
        assert shown(stops, pieces) == (text, None)
