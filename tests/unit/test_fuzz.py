"""Coverage-guided fuzzing of every decoder, for a bounded number of inputs."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from whyidle_daemon.facts import Site, StackSample
from whyidle_daemon.recording.encoding import Encoder
from whyidle_probes.events import NO_PEER, Exec, Fork, Slice, Wait
from whyidle_wire.codec import encode
from whyidle_wire.records import Observe, Subscribe

FUZZ = Path(__file__).resolve().parents[1] / "fuzz" / "decoders.py"
HELLO = bytes.fromhex("160301003e0100003a0303" + "00" * 32 + "00000213010100000f0000000b00090000066120622e63")
GPU = "drm-pdev: a\ndrm-client-id: 1\ndrm-engine-render: 5 ns\ndrm-memory-vram: 1 GiB\n"
CYCLES = (
    "drm-pdev: a\ndrm-client-id: 1\ndrm-cycles-rcs: 7\ndrm-total-cycles-rcs: 9\ndrm-engine-capacity-rcs: 2\n"
)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _model() -> bytes:
    numbers = {"block_count": 4, "attention.head_count": 8, "embedding_length": 512}
    pairs = [_text("general.architecture") + struct.pack("<I", 8) + _text("llama")]
    pairs += [_text(f"llama.{name}") + struct.pack("<II", 4, number) for name, number in numbers.items()]
    pairs.append(_text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b"))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


def _payload() -> tuple[int, bytes]:
    """Some records as a recording has them, and how many."""
    encoder = Encoder(0)
    site = Site("f", "/a.py", 1, ("f (/a.py:1)",))
    records = [
        Fork(1, 1 << 40, 1, 2, "x"),
        Exec(1, 1 << 40, 2, 2, "x", "/bin/x", 9),
        Slice(1, 2, 2, 1 << 40, 5, 6, 7, 8, 9, 10, int(Wait.TCP), 45, 3, NO_PEER),
        StackSample(2, 2, 1 << 40, site, "", int(Wait.TCP), NO_PEER),
    ]
    return len(records), b"".join(map(encoder.encode, records))


def _library(folder: Path) -> bytes:
    (folder / "lib.c").write_text("int llama_decode(void *c) { return c != 0; }\n")
    small = ("-shared", "-fPIC", "-nostdlib", "-Wl,-z,noseparate-code,--build-id=none", "-s")
    subprocess.run(["cc", *small, "-o", folder / "lib.so", folder / "lib.c"], check=True)
    return (folder / "lib.so").read_bytes()


def _seeds(decoder: str, folder: Path) -> list[bytes]:
    count, payload = _payload()
    frames = b"".join([encode(Observe(1, 2, ("x",), 0)), encode(Subscribe(1))])
    known = {
        "greeting": [HELLO, b"GET /a?b HTTP/1.1\r\nHost: a.example:80\r\n\r\n"],
        "event": [bytes([number]) + bytes(700) for number in range(1, 25)],
        "model": [_model()],
        "device": [f"{GPU}\f{GPU}".encode(), f"{CYCLES}\f{CYCLES}".encode()],
        "frame": [frames, frames[4:]],
        "offsets": [b"xdebugpy" + struct.pack("<QQ", 3 << 24 | 13 << 16, 0) + bytes(900)],
        "block_payload": [bytes([count]) + payload],
        "recording": [bytes([1, count]) + payload, b"\0"],
    }
    return [_library(folder)] if decoder == "library" else known.get(decoder, [bytes(8)])


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)
@pytest.mark.parametrize(
    ("decoder", "runs"),
    [
        ("greeting", 20_000),
        ("event", 20_000),
        ("library", 5_000),
        ("model", 10_000),
        ("parameters", 5_000),
        ("device", 10_000),
        ("frame", 10_000),
        ("line_table", 5_000),
        ("offsets", 5_000),
        ("block_payload", 10_000),
        ("recording", 3_000),
    ],
)
def test_no_input_breaks_a_promise(tmp_path: Path, decoder: str, runs: int) -> None:
    """So many inputs that look for new branches: nothing but the decoder's own error."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(_seeds(decoder, tmp_path)):
        (corpus / f"{number}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, FUZZ, decoder, f"-runs={runs}", "-max_len=16384", "-timeout=10", "-seed=1", corpus],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr
