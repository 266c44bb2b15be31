"""What a GGUF file says of its model's shape: enough for the size of a KV cache.

The file belongs to a target and is hostile: only the first 64 MiB are looked at, every count is bounded, and
whatever the bytes are, nothing but :class:`GgufError` is raised. Strings and arrays that are not wanted are
skipped without being kept; the tokenizer, which is most of a header, is not read where it follows what is
wanted. Format: ggml/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` returns that many bytes or fewer at the end of the file."""

MAX_BYTES: Final = 64 << 20
MAX_KEYS: Final = 4096
MAX_KEY: Final = 256
MAX_TEXT: Final = 64
MAX_LAYERS: Final = 4096
MAX_STRINGS: Final = 1 << 20
_CHUNK: Final = 1 << 16
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


class GgufError(ValueError):
    """Not a GGUF file, or one that this does not read."""


class _Cursor:
    """Reads forward through the file, by chunks."""

    def __init__(self, read: Read) -> None:
        self._read, self._base, self._data, self._at = read, 0, b"", 0

    def take(self, size: int) -> bytes:
        if self._base + self._at + size > MAX_BYTES:
            raise GgufError("the header is too long")
        if self._at + size > len(self._data):
            self._base += self._at
            self._data = self._read(self._base, max(size, _CHUNK))
            self._at = 0
            if len(self._data) < size:
                raise GgufError("the file ends within its header")
        part = self._data[self._at : self._at + size]
        self._at += size
        return part

    def skip(self, size: int) -> None:
        if self._base + self._at + size > MAX_BYTES:
            raise GgufError("the header is too long")
        self._at += size
        if self._at > len(self._data):
            self._base, self._data, self._at = self._base + self._at, b"", 0

    def number(self, letter: str) -> Any:
        form = struct.Struct("<" + letter)
        return form.unpack(self.take(form.size))[0]


class Shape(NamedTuple):
    """What matters of a model. ``kv_heads`` is by layer; ``None`` is not said."""

    architecture: str
    layers: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    doubt: str = ""

    def kv_bytes_per_cell(self, key_bytes: float, value_bytes: float) -> float:
        """Bytes of one token in the cache; the arguments are bytes of one element."""
        return sum(self.kv_heads) * (self.key_length * key_bytes + self.value_length * value_bytes)


def read_shape(read: Read) -> Shape:
    """The shape of the model in a file. Raises :class:`GgufError`."""
    return _shape(_wanted(_Cursor(read)))


def _wanted(cursor: _Cursor) -> dict[str, Any]:
    if cursor.take(4) != b"GGUF":
        raise GgufError("no GGUF file")
    if cursor.number("I") not in (2, 3):
        raise GgufError("another version of the format")
    cursor.skip(8)
    count = cursor.number("Q")
    if count > MAX_KEYS:
        raise GgufError("unreasonably many keys")
    found: dict[str, Any] = {}
    for _ in range(count):
        length = cursor.number("Q")
        if length > MAX_KEY:
            raise GgufError("an unreasonable key")
        key = cursor.take(length).decode("utf-8", "replace")
        if key.startswith("tokenizer.") and _is_complete(found):
            break
        value = _value(cursor, cursor.number("I"), wanted=not key.startswith("tokenizer."))
        if value is not None:
            found[key] = value
    return found


def _value(cursor: _Cursor, kind: int, wanted: bool) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        length = cursor.number("Q")
        if wanted and length <= MAX_TEXT:
            return cursor.take(length).decode("utf-8", "replace")
        cursor.skip(length)
        return None
    if kind != _ARRAY:
        raise GgufError("a value of an unknown type")
    of, count = cursor.number("I"), cursor.number("Q")
    if of in _SCALARS:
        size = struct.calcsize("<" + _SCALARS[of])
        if wanted and count <= MAX_LAYERS:
            return struct.unpack(f"<{count}{_SCALARS[of]}", cursor.take(size * count))
        cursor.skip(size * count)
        return None
    if of != _STRING:
        raise GgufError("an array of arrays")
    if count > MAX_STRINGS:
        raise GgufError("an unreasonable array")
    for _ in range(count):
        cursor.skip(cursor.number("Q"))
    return None


def _shape(found: dict[str, Any]) -> Shape:
    name = found.get("general.architecture")
    if not isinstance(name, str):
        raise GgufError("no architecture: a later part of a split model")

    def number(key: str, most: int) -> int | None:
        value = found.get(f"{name}.{key}")
        return value if type(value) is int and 0 < value <= most else None

    layers = number("block_count", MAX_LAYERS)
    heads, kv = found.get(f"{name}.attention.head_count"), found.get(f"{name}.attention.head_count_kv")
    kv = heads if kv is None else kv
    if layers is None or kv is None:
        raise GgufError("the model does not say its shape")
    per_layer = tuple(kv)[:layers] if isinstance(kv, tuple) else (kv,) * layers
    if len(per_layer) != layers or not all(type(one) is int and 0 <= one <= 1 << 16 for one in per_layer):
        raise GgufError("the model does not say its heads")
    width, most = number("embedding_length", 1 << 24), heads if type(heads) is int else 0
    each = width // most if width and most > 0 else None
    key = number("attention.key_length", 1 << 20) or each
    value = number("attention.value_length", 1 << 20) or each
    if key is None or value is None:
        raise GgufError("the model does not say the size of a head")
    return Shape(name, layers, per_layer, key, value, _doubt(name, found))


def _is_complete(found: dict[str, Any]) -> bool:
    try:
        _shape(found)
    except GgufError:
        return False
    return True


def _doubt(name: str, found: dict[str, Any]) -> str:
    """Why the formula would not hold."""
    if any(key.startswith(f"{name}.ssm.") for key in found):
        return "the model keeps a state instead of, or beside, a cache"
    if f"{name}.attention.kv_lora_rank" in found:
        return "the model keeps its keys and values compressed"
    if f"{name}.attention.sliding_window" in found:
        return "some layers of the model keep a sliding window only"
    return ""
