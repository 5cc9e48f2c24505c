"""The page of all words is up to date, and every word has a meaning in the code."""

from __future__ import annotations

import ast

import pytest
import words


def test_the_page_of_words_is_up_to_date() -> None:
    written = words.PAGE.read_text("utf-8")

    assert words.text(words.make()) == written, "run: python tests/words.py"


def test_every_word_has_a_meaning_in_the_files_that_must_have_them() -> None:
    assert [str(missing) for missing in words.enforced(words.make())] == []


def test_a_comment_at_the_end_of_a_line_or_above_it_is_a_meaning(tmp_path: words.Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "A: int = 1  #: At the end.\n#: In two\n#: lines above.\nB: int = 2\nC: int = 3\n"
    )
    statements = ast.parse(file.read_text()).body

    assert [words.note(file, node) for node in statements] == [
        "At the end.",
        "In two lines above.",
        "",
    ]


def test_a_closed_set_whose_comment_misses_a_word_is_an_error(tmp_path: words.Path) -> None:
    file = tmp_path / "sets.py"
    file.write_text('#: Sides.\n#: buy: The taker bought.\nSide = Literal["buy", "sell"]\n')

    with pytest.raises(ValueError, match="sell"):
        words.words(file, "Side")
