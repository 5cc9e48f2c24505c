"""The sample payloads in the comments above the message structs of Bybit are decodable."""

from __future__ import annotations

import ast
import inspect
import json
from types import ModuleType

import msgspec
import pytest
from tapeloom_bybit import codec, history, wire

#: Structs that are not decoded from a message of the venue.
NOT_DECODED = {"Route"}


def samples(module: ModuleType) -> dict[str, str]:
    """Return the sample above each struct: the joined `#:` lines before its class statement."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and issubclass(
            getattr(module, node.name), msgspec.Struct
        ):
            first = node.lineno - 1
            while lines[first - 1].startswith("#: "):
                first -= 1
            comment = lines[first : node.lineno - 1]
            found[node.name] = "".join(line.removeprefix("#: ") for line in comment)
    return {name: text for name, text in found.items() if name not in NOT_DECODED}


@pytest.mark.parametrize(
    ("module", "name", "sample"),
    [
        pytest.param(module, name, text, id=name)
        for module in (wire, codec, history)
        for name, text in samples(module).items()
    ],
)
def test_every_message_struct_has_a_sample_that_it_decodes(module, name, sample) -> None:
    message = msgspec.json.decode(sample, type=getattr(module, name))
    fields = msgspec.structs.fields(message)
    sent = json.loads(sample)

    assert isinstance(message, getattr(module, name))
    # A struct that shares no field with its sample would decode anything.
    assert isinstance(sent, list) or {field.encode_name for field in fields} & {*sent}
