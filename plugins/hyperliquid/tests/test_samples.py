"""Each message struct decodes the sample payload in the comment above it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import msgspec
import pytest

MODULES = ("bars", "codec", "dedup", "history", "wire")
#: Structs that are only encoded, for requests.
ENCODED = {"_RequestBody", "_BarsSpan"}


def samples() -> list[object]:
    """Return each message struct with the JSON in the `#: ` lines right above it."""
    found = []
    for name in MODULES:
        module = importlib.import_module(f"tapeloom_hyperliquid.{name}")
        source = Path(module.__file__).read_text()
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef) or node.name in ENCODED:
                continue
            struct = getattr(module, node.name)
            if not issubclass(struct, msgspec.Struct):
                continue
            start = end = node.lineno - 1
            while lines[start - 1].startswith("#: "):
                start -= 1
            text = "".join(line.removeprefix("#: ") for line in lines[start:end])
            found.append(pytest.param(struct, text, id=node.name))
    return found


@pytest.mark.parametrize(("struct", "text"), samples())
def test_each_message_struct_decodes_the_sample_above_it(struct, text) -> None:
    sent, message = msgspec.json.decode(text), msgspec.json.decode(text, type=struct)
    fields = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}

    assert isinstance(message, struct)
    assert set(fields) & set(sent)
    for encoded in set(fields) & set(sent):
        assert (getattr(message, fields[encoded]) is None) == (sent[encoded] is None)
