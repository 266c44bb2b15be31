"""The generated model: a real llama GGUF with random weights, made once and kept in the cache.

It needs no download, loads in milliseconds and exercises the same code as any model; only its text means
nothing. The sizes are chosen for one decode of one token to take about 1 ms on one core (0.4 ms with an empty
context, 1 ms with 2000 tokens in it, twice that on a busy machine): long enough that an engine interval is
unmistakable, short enough that a demo is over in seconds.

The tensors and metadata keys are those that llama.cpp's "llama" architecture asks for; the vocabulary is
GPT-2's byte-level BPE reduced to its 256 bytes, three control tokens and one merge (the tokenizer refuses
to load without a merge).
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whyidle_agent.errors import AgentError
from whyidle_agent.paths import cache_dir

MAGIC = b"GGUF"
BOS, EOS, UNKNOWN = 256, 257, 258
_NORMAL, _CONTROL = 1, 3  # llama.cpp's token types
_LAYOUT = 1  # of everything below that is not a parameter: raise it when the same parameters give other bytes


@dataclass(frozen=True)
class ModelSize:
    """The parameters of a generated model; the same parameters give the same file."""

    layers: int = 4
    width: int = 384
    feed_forward: int = 1024
    heads: int = 6
    kv_heads: int = 2
    context: int = 4096
    seed: int = 0

    @property
    def file_name(self) -> str:
        """Return a name with a hash of all parameters, so that another size never finds this file."""
        text = json.dumps({"layout": _LAYOUT, **asdict(self)}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"random-llama-{self.layers}x{self.width}-{digest}.gguf"


DEFAULT_SIZE = ModelSize()
# A token in a tenth of the time, for runs of thousands of steps.
SMALL_SIZE = ModelSize(layers=2, width=192, feed_forward=512, heads=3, kv_heads=1)


def generated_model(path: Path | None = None, size: ModelSize = DEFAULT_SIZE) -> Path:
    """Return the path of the generated model, making it when it is missing or damaged.

    `path`: where to keep it; by default in the cache. A file that is not a GGUF is never overwritten when
    the path was given by hand. Raises AgentError when it cannot be written.
    """
    target = path or cache_dir() / "models" / size.file_name
    if is_whole(target):
        return target
    if path is not None and target.exists() and not _has_magic(target):
        raise AgentError(
            f"{path} exists and is not a GGUF model", "choose another --path, or remove the file"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the rename cannot cross file systems.
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            write_model(Path(temporary), size)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise AgentError(
            f"cannot write the generated model {target}: {error.strerror or error}",
            "make room or permission there, set XDG_CACHE_HOME, or give --model PATH",
        ) from error
    return target


def is_whole(path: Path) -> bool:
    """Return whether `path` is a GGUF file in which every tensor is there to its last byte."""
    if not _has_magic(path):
        return False
    gguf = _import_gguf()
    try:
        # The reader maps each tensor with its declared shape and raises when the file ends before it does.
        reader = gguf.GGUFReader(path)
        return bool(reader.tensors)
    except (ValueError, IndexError, KeyError, OSError, OverflowError, UnicodeDecodeError):
        return False


def check_readable(path: Path) -> None:
    """Raise AgentError when `path` cannot be a model; cheap, so a model of many GB is not read here."""
    todo = "give the path of a .gguf file with --model, or leave --model out to use the generated one"
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise AgentError(f"no model file at {path}", todo) from None
    except OSError as error:
        raise AgentError(f"cannot read the model {path}: {error.strerror}", todo) from None
    if magic != MAGIC:
        raise AgentError(f"{path} is not a GGUF model (it does not begin with 'GGUF')", todo)


def write_model(path: Path, size: ModelSize) -> None:
    """Write a model of `size` to `path`. Deterministic: the same size gives the same bytes."""
    gguf = _import_gguf()
    import numpy as np  # noqa: PLC0415 - 0.1 s of start-up that only this path needs

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem if path.suffix == ".gguf" else size.file_name)
    writer.add_context_length(size.context)
    writer.add_embedding_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.feed_forward)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_NORMAL] * 256 + [_CONTROL] * 3 + [_NORMAL])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)

    random = np.random.default_rng(size.seed)

    def weights(name: str, rows: int, columns: int) -> None:
        # 1/sqrt(columns) keeps activations at unit variance through the layers, so logits neither vanish
        # nor blow up whatever the size.
        values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)
        writer.add_tensor(name, values.astype(np.float16))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(size.width, np.float32))

    kv_width = size.width // size.heads * size.kv_heads
    weights("token_embd.weight", len(tokens), size.width)
    ones("output_norm.weight")
    weights("output.weight", len(tokens), size.width)
    for layer in range(size.layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        weights(f"{block}.attn_q.weight", size.width, size.width)
        weights(f"{block}.attn_k.weight", kv_width, size.width)
        weights(f"{block}.attn_v.weight", kv_width, size.width)
        weights(f"{block}.attn_output.weight", size.width, size.width)
        ones(f"{block}.ffn_norm.weight")
        weights(f"{block}.ffn_gate.weight", size.feed_forward, size.width)
        weights(f"{block}.ffn_up.weight", size.feed_forward, size.width)
        weights(f"{block}.ffn_down.weight", size.width, size.feed_forward)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def vocabulary() -> list[str]:
    """Return the tokens in order: 256 bytes in GPT-2's printable spelling, BOS, EOS, UNKNOWN, one merge."""
    # GPT-2 spells a byte by the character with its code where that is printable, else by one from 256 up.
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    spelling = [chr(byte) if byte in shown else chr(next(spare)) for byte in range(256)]
    return [*spelling, "<s>", "</s>", "<unk>", "th"]


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _import_gguf() -> Any:
    try:
        import gguf  # noqa: PLC0415 - optional: needed only for the generated model
    except ImportError as error:
        raise AgentError(
            f"the generated model needs the package {error.name}", "run: make setup, or give --model PATH"
        ) from error
    return gguf
