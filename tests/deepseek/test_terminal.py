"""Text from outside on a terminal."""

from deepseek.terminal import visible


def test_characters_that_control_the_terminal_are_escaped() -> None:
    assert visible("a\x1b[31m\x9b2J\x07\r\x7f\u202e\u2028\ud800") == r"a\x1b[31m\x9b2J\x07\r\x7f\u202e\u2028\ud800"
    assert visible("a\nb\tc") == r"a\nb\tc"
    assert visible("a\nb\tc\r", has_lines=True) == "a\nb\tc\\r"


def test_writing_systems_and_pictures_are_left_alone() -> None:
    for text in ("café", "می\u200cخواهم", "\U0001f469\u200d\U0001f52c", "日本\u3000語", r"C:\new", "[bold]"):
        assert visible(text) == text
