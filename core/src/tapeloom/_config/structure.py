"""Structuring of a plugin's TOML table into that plugin's settings class, with every mistake reported.

cattrs walks the types of the class. The hooks here make it strict (a string never becomes a number)
and run the converter and validator of each field separately, so that one bad field does not hide
another.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, override

from tapeloom.errors import ConfigError, Mistake, nearest

from .descriptions import describe, describe_type
from .places import child
from .strict_converter import CONTEXT, BadValueError, Context, Read, WrongTypeError, converter

if TYPE_CHECKING:
    import cattrs


T = TypeVar("T")


def structure(
    cls: type[T], table: Any, place: str, *, folder: Path | None = None
) -> tuple[T | None, list[Mistake]]:
    """Return *table* as an instance of the attrs class *cls*, or None with all its mistakes.

    The places of the mistakes begin with *place*. Files with secrets are resolved against *folder*.

    Raises TypeError if *cls* has a type that cannot be read from TOML: a defect of the plugin.
    """
    context = Context(folder or Path())
    token = CONTEXT.set(context)
    try:
        return _CONVERTER.structure(table, cls), []
    except (StructureHandlerNotFoundError, NameError) as error:
        raise TypeError(f"{cls.__qualname__} cannot be read from TOML: {error}") from error
    except Exception as error:
        return None, [context.mask(mistake) for mistake in _mistakes(error, place, place)]
    finally:
        CONTEXT.reset(token)


# ------------------------------------------------------------------ mistakes from cattrs exceptions


def _mistakes(error: BaseException, place: str, table: str) -> Iterator[Mistake]:
    """Yield the mistakes in the exception tree that cattrs raised for *place*.

    *table* is the place of the table whose class contains *place*.
    """
    if isinstance(error, BaseValidationError):
        inner = table if isinstance(error, IterableValidationError) else place
        for cause in error.exceptions:
            note = _note(cause)
            if isinstance(cause, KeyError) and isinstance(note, AttributeValidationNote):
                yield Mistake(place, _missing_key(getattr(attrs.fields(error.cl), note.name)))
            else:
                yield from _mistakes(cause, _note_place(place, note, error.cl), inner)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = sorted(field.alias for field in attrs.fields(error.cl) if field.init)
        for key in sorted(error.extra_fields, key=str):
            hint = nearest(str(key), known) or f" Known: {', '.join(known) or 'none'}"
            yield Mistake(child(place, str(key)), f"unknown key.{hint}")
    elif isinstance(error, ConfigError):
        for mistake in error.mistakes:
            yield Mistake(f"{table}.{mistake.place}" if mistake.place else table, mistake.problem)
    elif isinstance(error, StructureHandlerNotFoundError):
        raise TypeError(f"{place} cannot be read from TOML: {error}") from error
    else:
        yield Mistake(place, _message(error))


def _note(error: BaseException) -> AttributeValidationNote | IterableValidationNote | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            return note
    return None


def _note_place(place: str, note: object, cls: Any) -> str:
    if isinstance(note, IterableValidationNote):
        return child(place, note.index)
    if isinstance(note, AttributeValidationNote):
        return child(place, str(getattr(attrs.fields(cls), note.name).alias))
    return place


def _missing_key(field: attrs.Attribute[Any]) -> str:
    accepted, known = _accepted(field)
    expected = f"; expected {describe_type(accepted)}" if known else ""
    return f"the key {field.alias!r} is missing{expected}"


def _message(error: BaseException) -> str:
    """Return the message of *error* on one line; attrs validators put it into the first argument."""
    first = error.args[0] if error.args else ""
    has_message = isinstance(error, ValueError | TypeError) and isinstance(first, str) and first
    return " ".join((first if has_message else f"{type(error).__name__}: {error}").split())


# ----------------------------------------------------------------------------------- attrs classes


def _class(cls: type[Any], strict: cattrs.Converter) -> Read:
    attrs.resolve_types(cls)
    fields: dict[str, Any] = {
        field.name: override(struct_hook=_field(cls, field, strict))
        for field in attrs.fields(cls)
        if field.init
    }
    inner = make_dict_structure_fn(
        cls, strict, _cattrs_forbid_extra_keys=True, _cattrs_use_alias=True, **fields
    )

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise WrongTypeError(cls, value)
        return inner(value, cls)

    return read


def _field(cls: type[Any], field: attrs.Attribute[Any], strict: cattrs.Converter) -> Read:
    """Return a reader for *field* that also runs its converter and validator, to find all mistakes.

    attrs runs both again when the object is made.
    """
    accepted, known = _accepted(field)
    type_read = strict.get_structure_hook(accepted)

    def read(value: Any, _: Any) -> Any:
        try:
            given = type_read(value, accepted)
        except Exception:
            if known:
                raise
            given = value
        _run_checks(cls, field, given)
        return given

    return read


def _run_checks(cls: type[Any], field: attrs.Attribute[Any], given: Any) -> None:
    convert: Any = field.converter
    if isinstance(convert, attrs.Converter):
        return  # it needs the object or the field; attrs runs it when the object is made
    try:
        value = convert(given) if convert is not None else given
    except (ConfigError, ValueError):
        raise
    except Exception as error:
        raise BadValueError(f"{describe(given)} cannot be read ({_message(error)})") from error
    if field.validator is None:
        return
    try:
        field.validator(object.__new__(cls), field, value)
    except (ConfigError, ValueError, TypeError):
        raise
    except AttributeError:
        return  # it needs other fields; attrs runs it again when all of them are set
    except Exception as error:
        raise BadValueError(_message(error)) from error


def _accepted(field: attrs.Attribute[Any]) -> tuple[Any, bool]:
    """Return the type that TOML may give for *field*, and whether that type is known for certain.

    With a converter, it is the annotation of the converter's first parameter.
    """
    declared = Any if field.type is None else field.type
    convert: Any = getattr(field.converter, "converter", field.converter)
    if convert is None or isinstance(convert, type):
        return declared, True
    try:
        first = next(iter(inspect.signature(convert).parameters))
        hint = typing.get_type_hints(convert).get(first)
    except (NameError, StopIteration, TypeError, ValueError):
        hint = None
    if hint is None or isinstance(hint, TypeVar):
        return declared, False
    return hint, True


_CONVERTER = converter()
_CONVERTER.register_structure_hook_factory(attrs.has, _class)
