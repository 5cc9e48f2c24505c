"""Reads the sample payloads in the comments above message structs, and decodes them.

A sample is the JSON of one real message. It stands in the `#: ` lines right above the class statement
of the `msgspec.Struct` that decodes it, so a reader sees both together, and a test holds them together.
Needs msgspec: the extra `samples`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Collection

import msgspec

__all__ = ["check_sample", "samples"]


def samples(*modules: str, without: Collection[str] = ()) -> list[tuple[type[msgspec.Struct], str]]:
    """Return each message struct of the modules of these names with its sample, in order of the source.

    Modules go by name, since a hook in a package hides the module of the same name, like `history`.
    The sample is empty where no `#: ` line stands above the struct. Structs named in *without* are
    left out: base classes, and structs that are only encoded.

    Raises ValueError for a module without a message struct: a test of nothing would always pass.
    """
    found: list[tuple[type[msgspec.Struct], str]] = []
    for name in modules:
        module, known = importlib.import_module(name), len(found)
        source = inspect.getsource(module)
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef) or node.name in without:
                continue
            struct = getattr(module, node.name)
            if not issubclass(struct, msgspec.Struct):
                continue
            first = end = node.lineno - 1
            while lines[first - 1].startswith("#: "):
                first -= 1
            comment = "".join(line.removeprefix("#: ") for line in lines[first:end])
            found.append((struct, comment))
        if len(found) == known:
            raise ValueError(
                f"expected a msgspec.Struct with a sample in {name}, found none: remove it"
            )
    return found


def check_sample(struct: type[msgspec.Struct], sample: str) -> None:
    """Decode *sample* as *struct*, and raise AssertionError if they do not fit each other.

    A field must be None exactly if it is null in the sample. A sample that is a JSON object must share a
    member with the struct: a struct whose fields all have defaults decodes any object.

    Raises msgspec.DecodeError if the sample is not JSON or not a message of that struct.
    """
    sent, message = msgspec.json.decode(sample), msgspec.json.decode(sample, type=struct)
    assert isinstance(message, struct)
    if isinstance(sent, list):
        return
    names = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}
    shared = names.keys() & sent.keys()
    assert shared, f"{struct.__name__} shares no member with its sample {sample}"
    for member in shared:
        value = getattr(message, names[member])
        assert (value is None) == (sent[member] is None), (
            f"{struct.__name__}: {member} is {value!r}"
        )
