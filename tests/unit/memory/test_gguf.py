"""GGUF headers are hostile: read with a bound, or refused."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_agent.model_file import generated_model
from whyidle_daemon.contexts import types_in
from whyidle_daemon.gguf import MAX_STRINGS, GgufError, Shape, read_shape


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def u32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def header(*pairs: bytes, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs) if count is None else count) + b"".join(pairs)


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
TOKENS = (
    text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c" * 999)
)
SHAPE = (
    u32("llama.block_count", 4),
    u32("llama.attention.head_count", 8),
    u32("llama.attention.head_count_kv", 2),
    u32("llama.embedding_length", 512),
)
GOOD = header(ARCHITECTURE, TOKENS, *SHAPE)


def shape_of(data: bytes) -> Shape:
    return read_shape(lambda offset, size: data[offset : offset + size])


def test_the_shape_is_read() -> None:
    """Layers, heads and their sizes, with long arrays in between."""
    assert shape_of(GOOD) == Shape("llama", 4, (2, 2, 2, 2), 64, 64)
    assert shape_of(GOOD).kv_bytes_per_cell(2, 2) == 4 * 2 * (64 + 64) * 2


def test_heads_by_layer_and_sizes_of_their_own() -> None:
    per_layer = text("llama.attention.head_count_kv") + struct.pack("<IIQ4I", 9, 4, 4, 1, 0, 2, 2)
    lengths = (u32("llama.attention.key_length", 192), u32("llama.attention.value_length", 128))
    shape = shape_of(header(ARCHITECTURE, SHAPE[0], SHAPE[1], per_layer, SHAPE[3], *lengths))
    assert shape.kv_bytes_per_cell(2, 1) == 5 * (192 * 2 + 128)


@pytest.mark.parametrize("key", ["ssm.state_size", "attention.kv_lora_rank", "attention.sliding_window"])
def test_models_that_the_formula_does_not_hold_for(key: str) -> None:
    assert shape_of(header(ARCHITECTURE, *SHAPE, u32(f"llama.{key}", 64))).doubt


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        GOOD[:-3],
        header(ARCHITECTURE, count=1 << 40),
        header(text("k" * 300) + struct.pack("<II", 4, 1)),
        header(text("k") + struct.pack("<I", 99)),
        header(text("tokenizer.x") + struct.pack("<IIQ", 9, 8, 1 << 60)),
        header(text("x") + struct.pack("<IIQ", 9, 8, MAX_STRINGS + 1) + bytes(8 * (MAX_STRINGS + 1))),
        header(text("a") + struct.pack("<IIQ", 9, 9, 1)),
        header(text("a") + struct.pack("<IQ", 8, 1 << 63)),
        header(*SHAPE),
        header(ARCHITECTURE),
        header(ARCHITECTURE, SHAPE[0], u32("llama.attention.head_count", 1 << 30), SHAPE[3]),
    ],
)
def test_bad_files_are_refused(data: bytes) -> None:
    """Cut short, absurd counts, unknown types, no shape."""
    with pytest.raises(GgufError):
        shape_of(data)


def test_a_tokenizer_after_the_shape_is_not_read() -> None:
    """It is most of a header: half a million strings."""
    data = header(ARCHITECTURE, *SHAPE, TOKENS)
    start = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens")
    assert shape_of(data[:start]) == shape_of(GOOD)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=16))
def test_any_damage_is_an_error_or_a_shape(offset: int, junk: bytes) -> None:
    """Nothing but GgufError comes of any bytes."""
    for data in (junk, GOOD[:offset] + junk, GOOD[:offset] + junk + GOOD[offset + len(junk) :]):
        with contextlib.suppress(GgufError):
            shape_of(data)


@pytest.mark.parametrize(("offset", "pair"), [(88, (1, 1)), (104, (8, 2)), (104, (1, 1)), (104, (0, 0))])
def test_cache_types_are_found_in_any_version(offset: int, pair: tuple[int, int]) -> None:
    """The layout of the parameters changed several times; what stands around the types did not."""
    data = bytearray(160)
    data[: offset - 16] = struct.pack("<f", 1.0) * ((offset - 16) // 4)
    struct.pack_into("<II", data, offset, *pair)
    data[offset + 24 : offset + 29] = b"\0\1\1\1\0"
    assert types_in(bytes(data)) in (pair, None)
    if pair != (0, 0):
        assert types_in(bytes(data)) == pair


@given(st.binary(min_size=160, max_size=160))
def test_any_parameters_are_taken(data: bytes) -> None:
    types_in(data)


@pytest.mark.model
def test_the_generated_model(tmp_path: Path) -> None:
    """The reader agrees with the package that writes the files."""
    data = generated_model().read_bytes()[: 1 << 20]
    shape = shape_of(data)
    assert (shape.architecture, shape.layers) == ("llama", 4)
    assert shape.key_length * len(shape.kv_heads) > 0
