"""The generated model and llama.cpp: what is real here is the decode."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from whyidle_agent.brain import LlamaBrain, Settings, _chat_formatter
from whyidle_agent.calls import TOOLS, parse_call
from whyidle_agent.errors import AgentError
from whyidle_agent.grammar import Characters, Style, Words, tool_call
from whyidle_agent.main import main
from whyidle_agent.model_file import ModelSize, check_readable, generated_model, is_whole, vocabulary
from whyidle_agent.slow_search import Behaviour, SearchServer

SMALL = ModelSize(layers=1, width=64, feed_forward=64, heads=2, kv_heads=1, context=512)


@pytest.mark.model
def test_the_same_size_gives_the_same_bytes(tmp_path: Path) -> None:
    """Generating is deterministic, another seed gives another file name and other bytes."""
    first = generated_model(tmp_path / "a" / "m.gguf", SMALL)
    second = generated_model(tmp_path / "b" / "m.gguf", SMALL)
    other = ModelSize(**{**vars(SMALL), "seed": 1})
    third = generated_model(tmp_path / "c" / "m.gguf", other)
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()
    assert SMALL.file_name != other.file_name


@pytest.mark.model
def test_the_cache_is_filled_once_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model is used as it is; a truncated or empty one in the cache is made again."""
    monkeypatch.delenv("WHYIDLE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = generated_model(size=SMALL)
    assert path == tmp_path / "whyidle" / "models" / SMALL.file_name
    whole, made = path.read_bytes(), path.stat().st_ino
    assert generated_model(size=SMALL).stat().st_ino == made
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:6], whole[:4], b""):
        path.write_bytes(damaged)
        assert not is_whole(path)
        assert generated_model(size=SMALL).read_bytes() == whole
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.model
def test_a_file_of_someone_elses_is_not_overwritten(tmp_path: Path) -> None:
    """`model --path` refuses a file that is not a model."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(AgentError, match="is not a GGUF model"):
        generated_model(tmp_path / "notes.txt", SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_vocabulary_is_every_byte() -> None:
    """256 distinct printable spellings, three control tokens, one merge."""
    tokens = vocabulary()
    assert len(tokens) == len(set(tokens)) == 260
    assert all(len(token) == 1 and token.isprintable() for token in tokens[:256])


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_what_is_no_model_is_refused_before_llama_sees_it(tmp_path: Path, kind: str) -> None:
    """Missing, empty, of another kind, a folder: one line, and it names the file."""
    path = tmp_path / "model.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "hello, world")
    with pytest.raises(AgentError, match=r"model\.gguf"):
        check_readable(path)


@pytest.mark.model
@pytest.mark.parametrize("kept", [4, 8, 100, 0.5, 0.999])
def test_a_truncated_model_gives_one_clear_line(
    tmp_path: Path, model: Path, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever the file ends, `run` exits with 1, says which file, why, and what to do, and nothing else."""
    data = model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    assert main(["run", "--model", str(path), "--workdir", str(tmp_path / "work")]) == 1
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith(f"whyidle-agent: llama.cpp cannot load {path}: ")
    assert len(first.rpartition(": ")[2]) > 10
    assert "truncated" in second


@pytest.mark.model
def test_calls_parse_for_several_seeds_and_repeat(model: Path) -> None:
    """For each seed and style the model's answer is a tool call, and the same seed gives the same again."""
    answers: list[list[str]] = []
    styles: list[Style] = [Words(), Characters(), Words()]
    for _ in range(2):
        texts = []
        for seed in (0, 1, 2**31, 2**40):
            brain = LlamaBrain(model, Settings(seed=seed, context=1024))
            for step, style in enumerate(styles):
                bits: list[str] = []
                answer = brain.think(
                    "Goal: x\n" * (step + 1), tool_call(TOOLS, style, 256), step, bits.append
                )
                parse_call(answer.text)
                assert "".join(bits) == answer.text
                assert answer.tokens < 256
                texts.append(answer.text)
            assert brain.engine.seconds > 0
            assert brain.engine.calls >= sum(map(len, texts[-3:])) / 2
            brain.close()
        answers.append(texts)
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == len(answers[0])


@pytest.mark.model
def test_a_prompt_that_does_not_fit_is_one_clear_error(model: Path) -> None:
    """The context is never overrun: the error says how much there is and which options change it."""
    brain = LlamaBrain(model, Settings(context=512))
    with pytest.raises(AgentError, match="do not fit in a context of 512") as refusal:
        brain.think("x" * 400, tool_call(TOOLS, Words(), 256), 0, lambda _: None)
    assert "--context" in refusal.value.todo
    brain.close()


@pytest.mark.model
def test_an_engine_that_fails_is_one_clear_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode that finds no memory on the GPU, say, is said with what can be done about it."""

    def fail(batch: object) -> None:
        raise RuntimeError("llama_decode returned -3")

    brain = LlamaBrain(model, Settings(context=1024))
    try:
        monkeypatch.setattr(brain._llama._ctx, "decode", fail)
        with pytest.raises(AgentError, match="llama_decode returned -3") as refusal:
            brain.think("Goal: x", tool_call(TOOLS, Words(), 200), 1, lambda _: None)
        assert "--gpu-layers" in refusal.value.todo
    finally:
        brain.close()


@pytest.mark.model
def test_the_same_seed_gives_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs with one seed think, ask and write the same; the account adds up and repeats its tokens."""
    monkeypatch.setenv("WHYIDLE_CACHE", str(tmp_path / "cache"))
    runs: list[list[Any]] = []
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.01)) as server:
        for name in ("one", "two"):
            folder, stats_file = tmp_path / name, tmp_path / f"{name}.json"
            arguments = ["--search-url", server.url, "--workdir", str(folder), "--seed", "3", "--loops", "4"]
            assert main([*arguments, "--stats", str(stats_file)]) == 0
            lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            stats = json.loads(stats_file.read_text())
            assert stats["schema"] == "whyidle.agent-stats/1"
            assert stats["outcome"] == "finished"
            assert stats["decode_s"] <= stats["inference_s"]
            assert stats["inference_s"] + stats["tools_s"] <= stats["wall_s"]
            assert stats["tokens"] == sum(line["tokens"] for line in lines[1:])
            assert all(call["ok"] for call in stats["tool_calls"])
            files = {path.name: path.read_text() for path in (folder / "files").iterdir()}
            runs.append([[(line["call"], line["observation"]) for line in lines[1:]], files])
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 4


@pytest.mark.model
def test_a_models_own_chat_template_is_used(model: Path) -> None:
    """A template frames the prompt; one that does not compile, or refuses the prompt, is one clear error."""
    brain = LlamaBrain(model, Settings(context=1024))
    piece = tool_call(TOOLS, Words(), 200)
    plain = brain.think("Goal: x", piece, 1, lambda _: None)
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    brain._llama.metadata["tokenizer.chat_template"] = template
    brain._chat = _chat_formatter(brain._llama)
    framed = brain.think("Goal: x", piece, 1, lambda _: None)
    assert framed.prompt_tokens == plain.prompt_tokens + len("user: \n")
    parse_call(framed.text)

    brain._llama.metadata["tokenizer.chat_template"] = "{{ raise_exception('no users here') }}"
    brain._chat = _chat_formatter(brain._llama)
    with pytest.raises(AgentError, match="no users here"):
        brain.think("Goal: x", piece, 1, lambda _: None)
    brain._llama.metadata["tokenizer.chat_template"] = "{% if %}"
    with pytest.raises(AgentError, match="chat template"):
        _chat_formatter(brain._llama)
    brain.close()


@pytest.mark.model
def test_a_free_model_runs_too(tmp_path: Path, model: Path) -> None:
    """`--model PATH` is not planned for: it chooses its own tools, within the same bounds."""
    arguments = ["run", "--model", str(model), "--workdir", str(tmp_path / "work"), "--loops", "2"]
    assert main([*arguments, "--tokens", "200", "--search-url", "http://127.0.0.1:9"]) == 0
    assert len((tmp_path / "work" / "history.jsonl").read_text().splitlines()) >= 2


@pytest.mark.model
def test_ctrl_c_exits_with_130_and_keeps_the_history(tmp_path: Path) -> None:
    """An interrupt during a blocking search ends the run at once; history and account are whole."""
    work, stats = tmp_path / "work", tmp_path / "stats.json"
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=3600)) as server:
        command = [
            sys.executable,
            "-m",
            "whyidle_agent.main",
            "run",
            "--search-url",
            server.url,
            "--timeout",
            "3600",
        ]
        environment = {**os.environ, "WHYIDLE_CACHE": str(tmp_path / "cache")}
        with subprocess.Popen(
            [*command, "--workdir", str(work), "--stats", str(stats)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            deadline = time.monotonic() + 60
            while server._active == 0:
                assert process.poll() is None
                assert time.monotonic() < deadline, "the agent never searched"
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""
    assert b"interrupted" in out
    assert "goal" in json.loads((work / "history.jsonl").read_text().splitlines()[0])
    account = json.loads(stats.read_text())
    assert account["outcome"] == "interrupted"
    assert [(call["tool"], call["ok"]) for call in account["tool_calls"]] == [("search_web", None)]
    assert account["tool_calls"][0]["duration_s"] > 0


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """Killed at any moment, again and again, it comes to the calls, results and files of an unkilled run."""
    command = [sys.executable, "-m", "whyidle_agent.main", "run", "--seed", "3", "--loops", "5"]
    with SearchServer("127.0.0.1", 0, Behaviour(latency_s=0.05)) as server:
        command += ["--search-url", server.url]
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        subprocess.run([*command, "--workdir", whole], stdout=subprocess.DEVNULL, check=True)
        history, kills = killed / "history.jsonl", 0
        while not (steps := steps_of(history)) or len(steps) < 4:
            seen = len(steps)
            process = subprocess.Popen([*command, "--workdir", killed], stdout=subprocess.DEVNULL)
            try:
                # Not before it got further, so that the test ends; at a moment that nobody chose after that.
                while len(steps_of(history)) == seen and process.poll() is None:
                    time.sleep(0.001)
            finally:
                process.send_signal(number)
            assert process.wait() in (-number, 130)
            kills += 1
        subprocess.run([*command, "--workdir", killed], stdout=subprocess.DEVNULL, check=True)
    assert kills >= 2
    assert steps_of(killed / "history.jsonl") == steps_of(whole / "history.jsonl")
    files = {path.name: path.read_bytes() for path in (killed / "files").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (whole / "files").iterdir()}


def steps_of(history: Path) -> list[tuple[int, Any, str]]:
    """Return the whole steps of a history that may be being written."""
    if not history.exists():
        return []
    *lines, _ = history.read_text().split("\n")
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["call"], r["observation"]) for r in records if "step" in r]
