"""Splits text in any script into words by Unicode's default rules (UAX #29), using only the standard library.

Text is first normalized to NFC and lower-cased, typographic apostrophes are replaced by plain ones, and format
characters are removed. Then rules WB4 to WB13b are applied. Segments without letters or numbers are dropped. In scripts
written without spaces (e.g. Thai, Khmer, Chinese, hiragana), each letter is a word, because no dictionary is used.
Word_Break properties are derived from general categories, because Python lacks Unicode's table of them. Therefore some
characters that are letters in that table are not letters here: letter-like symbols (circled letters, squared katakana,
modifier symbols) and signs before Arabic numbers.
"""

import re
import unicodedata

_PUNCTUATION = {
    "A": "\u055a\u055b\u055c\u055e\u058a\u05f3",  # Armenian and Hebrew signs inside words
    "Q": "'",
    "D": '"',
    "B": ".\u2018\u2019\u2024\ufe52\uff07\uff0e",  # MidNumLet
    "M": ":\u00b7\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a",  # MidLetter
    "S": ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe50\ufe54\uff0c\uff1b",  # MidNum
    "N": "\u066b",  # Arabic decimal separator
    "E": "\u202f",  # ExtendNumLet, the property that connectors also have
    "X": "\u200c\u200d\uff9e\uff9f",  # Extend: joiners and halfwidth voicing marks
    "O": "\u200b",  # zero-width space
}
_CLASS_OF = {character: name for name, characters in _PUNCTUATION.items() for character in characters}

_HEBREW = ((0x5D0, 0x5F2), (0xFB1D, 0xFB4F))
_KATAKANA = ((0x3031, 0x3035), (0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D), (0x1AFF0, 0x1B000),
             (0x1B120, 0x1B122), (0x1B155, 0x1B155), (0x1B164, 0x1B167))  # fmt: skip
_WITHOUT_SPACES = (
    (0xE00, 0xEFF),  # Thai, Lao
    (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0xAA80, 0xAADF), (0x11700, 0x1174F),  # Tai scripts, Ahom
    (0x3006, 0x3007), (0x3021, 0x3029), (0x3038, 0x303A), (0x3041, 0x309F), (0x1B001, 0x1B11F), (0x1B132, 0x1B152),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),  # Han
    (0x17000, 0x18DFF), (0x1B170, 0x1B2FF),  # Tangut, Khitan, Nushu
)  # fmt: skip
_EXTENDING = ((0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F))  # skin tones, tags


class _Classes(dict[int, str]):
    """Maps each character to its Word_Break property, abbreviated to one letter. Entries are computed on demand."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _classify(code)
        return found


def _classify(code: int) -> str:
    character = chr(code)
    category = unicodedata.category(character)
    if character in _CLASS_OF:
        return _CLASS_OF[character]
    if category[0] == "M" or _within(code, _EXTENDING):
        return "X"
    if category == "Nd":
        return "N"
    if category[0] == "L" or category == "Nl":
        kinds = (("H", _HEBREW), ("K", _KATAKANA), ("I", _WITHOUT_SPACES))
        return next((name for name, ranges in kinds if _within(code, ranges)), "A")
    return {"No": "I", "Cf": "F", "Pc": "E"}.get(category, "O")


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


_CLASSES = _Classes()
# The patterns below do not match text. They match a string that has one letter per character of the text: the class of
# the character. Extending characters are left out (WB4). H is a Hebrew letter, A any other letter, N a digit, K
# katakana, E a connector, I a character that is a word by itself, and O anything else. Q and D are the plain single and
# double quotation marks. M, B and S are punctuation: M may occur within words, S within numbers, and B within both.
_RUN = "(?:[AHN]|(?<=[AH])[MBQ](?=[AH])|(?<=H)D(?=H)|(?<=N)[SBQ](?=N))+"
_WORD = re.compile(f"I|(?<!E)E*+(?:K+|{_RUN})(?:E++(?:K+|{_RUN}))*(?:E+|(?<=H)Q)?")


def split_words(text: str) -> list[str]:
    """Returns the words of a text, in the order in which they occur.

    >>> split_words("Can't 3.14 THE naïve_one, मेरी?")
    ["can't", '3.14', 'the', 'naïve_one', 'मेरी']
    """
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    classes = text.translate(_CLASSES)
    if "F" in classes:
        text = "".join(character for character, kind in zip(text, classes, strict=True) if kind != "F")
        classes = classes.replace("F", "")
    starts = [i for i, kind in enumerate(classes) if kind != "X"]
    starts.append(len(text))
    found = _WORD.finditer(classes.replace("X", ""))
    return [text[starts[match.start()] : starts[match.end()]] for match in found]
