import unicodedata

import pytest

from deepseek.data.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is there a cat? Yes.", ["is", "there", "a", "cat", "yes"]),
        ("DON'T don\u2019t 'quoted' rock 'n' roll", ["don't", "don't", "quoted", "rock", "n", "roll"]),
        ("co-op naïve_one __init__ ___ U.S.A. x:y", ["co", "op", "naïve_one", "__init__", "u.s.a", "x:y"]),
        ("3.14 1,234.5 1:2 v2 ½ m² 5.", ["3.14", "1,234.5", "1", "2", "v2", "½", "m", "²", "5"]),
        ("Straße STRASSE İstanbul ısı Iğdır", ["straße", "strasse", "i\u0307stanbul", "ısı", "iğdır"]),
        ("ΟΔΟΣ ό,τι", ["οδος", "ό", "τι"]),
        ("मेरी की हिन्दी। क्षत्रिय", ["मेरी", "की", "हिन्दी", "क्षत्रिय"]),
        ("நான் தமிழ்", ["நான்", "தமிழ்"]),
        ("هَلْ هَذِهِ قِطَّة؟ ١٢٣٫٤", ["هَلْ", "هَذِهِ", "قِطَّة", "١٢٣٫٤"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("צה\"ל רח' שָׁלוֹם׳", ['צה"ל', "רח'", "שָׁלוֹם׳"]),
        ("Ո՞րն է", ["ո՞րն", "է"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("这是猫吗?", ["这", "是", "猫", "吗"]),
        ("らーめん テーブル ﾃﾞｰﾀ", ["ら", "ー", "め", "ん", "テーブル", "ﾃﾞｰﾀ"]),
        ("แมวที่นี่", ["แ", "ม", "ว", "ที่", "นี่"]),
        (
            "soft\u00adhyphen \u200fשלום\u200f \ufeffstart zero\u200bspace",
            ["softhyphen", "שלום", "start", "zero", "space"],
        ),
        ("a 👩\u200d🔬 b🇫🇷c ❤️", ["a", "b", "c"]),
        ("\u0301a \u0301\n\u0301b", ["a", "b"]),
        ("10\u202f000 no\u00a0break", ["10\u202f000", "no", "break"]),
        ("", []),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_of_many_scripts(text: str, words: list[str], form: str) -> None:
    expected = [unicodedata.normalize("NFC", word) for word in words]
    assert split_words(unicodedata.normalize(form, text)) == expected


# Lines of WordBreakTest-15.0.0.txt that distinguish the rules. Terms of use: https://www.unicode.org/terms_of_use.html
OFFICIAL = """
0061 × 0027 × 0308 × 0061 ÷ 003A
0061 × 003A × 0308 × 0061 ÷ 003A
0061 ÷ 002C × 0308 ÷ 0061 ÷ 003A
0061 ÷ 0027 × 2060 ÷ 0031 ÷ 002E × 2060
0061 × 2060 × 0308 × 0031 ÷ 002C
0061 ÷ 003A ÷ 003A ÷ 0061
0061 × 005F × 0061 ÷ 002C ÷ 002C ÷ 0031
0061 × 0308 × 200D × 0308 × 0062
0061 ÷ 0020 × 0020 ÷ 0062
0061 ÷ 1F1E6 × 1F1E7 ÷ 1F1E8 ÷ 0062
0031 × 0027 × 0308 × 0030
0031 × 002C × 0308 × 0030
0031 ÷ 003A × 0308 ÷ 0030
0031 ÷ 0027 ÷ 0061 ÷ 003A
0031 ÷ 002E ÷ 002E ÷ 0031
0031 × 005F × 0031 ÷ 003A ÷ 003A ÷ 0061
3031 × 0308 × 3031
3031 × 0308 ÷ 0041
3031 ÷ 0031 ÷ 003A
3031 × 005F
05D0 × 0027
05D0 ÷ 0022
05D0 × 0022 × 05D0
05D0 × 0031 ÷ 002C
05D0 × 0308 × 0061 × 2060
05D0 × 0308 ÷ 3031
000D × 000A ÷ 0061 ÷ 000A ÷ 0308
000A ÷ 0308 ÷ 0027
00AD × 0308 ÷ 0031 ÷ 0027
1F6D1 × 1F3FF
"""


@pytest.mark.parametrize("line", OFFICIAL.strip().split("\n"))
def test_boundaries_are_those_of_unicode(line: str) -> None:
    segments = ["".join(chr(int(code, 16)) for code in one.split(" × ")) for one in line.split(" ÷ ")]
    text = "".join(segments)
    words = [one for one in segments if any(character.isalnum() for character in one)]
    assert split_words(text) == [unicodedata.normalize("NFC", one).lower().replace("\u2060", "") for one in words]


@pytest.mark.parametrize("piece", ["_", "a_", "'", "a.'", "\u0301", "ア_", "א'_", "1,"])
def test_long_texts_of_one_kind_are_split(piece: str) -> None:
    assert split_words(piece * 100_000 + " end")[-1] == "end"
