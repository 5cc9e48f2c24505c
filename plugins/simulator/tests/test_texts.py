"""The cache of texts keeps what it wrote, and does not grow without bound."""

from __future__ import annotations

from tapeloom_simulator.texts import CachedTexts


class Dollars(CachedTexts):
    max_texts = 3

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    def write(self, number: int) -> str:
        self.written.append(number)
        return f"${number}"


def test_a_number_is_written_once() -> None:
    texts = Dollars()

    assert [texts[7], texts[7], texts[8]] == ["$7", "$7", "$8"]
    assert texts.written == [7, 8]


def test_all_texts_are_dropped_when_there_are_too_many() -> None:
    texts = Dollars()

    sizes = [len(texts) for number in range(10) if texts[number]]

    assert max(sizes) == Dollars.max_texts + 1
    assert texts[9] == "$9"
