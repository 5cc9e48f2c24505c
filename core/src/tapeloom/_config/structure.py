"""A plugin's TOML table as that plugin's own class, with every mistake in it.

cattrs walks the types. The hooks here make it strict (a string is never taken for a number) and make
it try the converter and the validator of each field by itself, so that one bad field hides no other.
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

from .places import at
from .strict import SIGHT, ExpectedError, Read, RefusedError, Sight, converter
from .words import shown, wanted

if TYPE_CHECKING:
    import cattrs


T = TypeVar("T")


def structure(
    cls: type[T], table: Any, place: str, *, folder: Path | None = None
) -> tuple[T | None, list[Mistake]]:
    """Return *table* as a *cls*, an attrs class, or None and all that is wrong with it.

    The places of the mistakes begin with *place*. Secrets in files are read relative to *folder*.

    Raises TypeError where *cls* itself cannot be used: a defect of the plugin, not of the stack.
    """
    sight = Sight(folder or Path())
    token = SIGHT.set(sight)
    try:
        return _CONVERTER.structure(table, cls), []
    except (StructureHandlerNotFoundError, NameError) as error:
        raise TypeError(f"{cls.__qualname__} cannot be read from TOML: {error}") from error
    except Exception as error:
        return None, [sight.hide(mistake) for mistake in _mistakes(error, place, place)]
    finally:
        SIGHT.reset(token)


# ------------------------------------------------------------------------------- from cattrs' tree


def _mistakes(error: BaseException, place: str, table: str) -> Iterator[Mistake]:
    """Walk through what cattrs raised. *table* is the place of the class around *place*."""
    if isinstance(error, BaseValidationError):
        inner = table if isinstance(error, IterableValidationError) else place
        for each in error.exceptions:
            note = _note(each)
            if isinstance(each, KeyError) and isinstance(note, AttributeValidationNote):
                yield Mistake(place, _missing(getattr(attrs.fields(error.cl), note.name)))
            else:
                yield from _mistakes(each, _inside(place, note, error.cl), inner)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = sorted(field.alias for field in attrs.fields(error.cl) if field.init)
        for key in sorted(error.extra_fields, key=str):
            hint = nearest(str(key), known) or f" Known: {', '.join(known) or 'none'}"
            yield Mistake(at(place, str(key)), f"unknown key.{hint}")
    elif isinstance(error, ConfigError):
        for mistake in error.mistakes:
            yield Mistake(f"{table}.{mistake.place}" if mistake.place else table, mistake.problem)
    elif isinstance(error, StructureHandlerNotFoundError):
        raise TypeError(f"{place} cannot be read from TOML: {error}") from error
    else:
        yield Mistake(place, _text(error))


def _note(error: BaseException) -> AttributeValidationNote | IterableValidationNote | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            return note
    return None


def _inside(place: str, note: object, cls: Any) -> str:
    if isinstance(note, IterableValidationNote):
        return at(place, note.index)
    if isinstance(note, AttributeValidationNote):
        return at(place, str(getattr(attrs.fields(cls), note.name).alias))
    return place


def _missing(field: attrs.Attribute[Any]) -> str:
    accepted, known = _accepted(field)
    takes = f"; it takes {wanted(accepted)}" if known else ""
    return f"the key {field.alias!r} is missing{takes}"


def _text(error: BaseException) -> str:
    """Return the message on one line; attrs' own validators put it into the first argument."""
    first = error.args[0] if error.args else ""
    told = isinstance(error, ValueError | TypeError) and isinstance(first, str) and first
    return " ".join((first if told else f"{type(error).__name__}: {error}").split())


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
            raise ExpectedError(cls, value)
        return inner(value, cls)

    return read


def _field(cls: type[Any], field: attrs.Attribute[Any], strict: cattrs.Converter) -> Read:
    """Read a field by its type, and try its converter and its validator on the value.

    They are called again when the object is made.
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
        _try_out(cls, field, given)
        return given

    return read


def _try_out(cls: type[Any], field: attrs.Attribute[Any], given: Any) -> None:
    convert: Any = field.converter
    if isinstance(convert, attrs.Converter):
        return  # it looks at the object or the field: attrs will ask it
    try:
        value = convert(given) if convert is not None else given
    except (ConfigError, ValueError):
        raise
    except Exception as error:
        raise RefusedError(f"{shown(given)} cannot be read ({_text(error)})") from error
    if field.validator is None:
        return
    try:
        field.validator(object.__new__(cls), field, value)
    except (ConfigError, ValueError, TypeError):
        raise
    except AttributeError:
        return  # it looks at other fields: attrs will ask it again when they are all there
    except Exception as error:
        raise RefusedError(_text(error)) from error


def _accepted(field: attrs.Attribute[Any]) -> tuple[Any, bool]:
    """Return the type in which the stack may give a field, and whether it is sure.

    A field with a converter takes what the converter's first parameter says.
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
