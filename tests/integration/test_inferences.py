"""What the engine's calls computed: tokens, prompts, where each inference begins and ends."""

from __future__ import annotations

import json

import pytest

from harness import Program, wait_until
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.proc import Proc
from whyidle_probes.events import ContextMade, Inference

pytestmark = [pytest.mark.bpf, pytest.mark.model]
NS = 1_000_000_000

MODEL = """
    import ctypes, json, time
    import llama_cpp
    from llama_cpp import Llama
    from whyidle_agent.model_file import generated_model
    print("mapped", flush=True)
    sys.stdin.readline()
    model = Llama(str(generated_model()), n_ctx=512, n_batch=16, n_threads=1, verbose=False)
    spans = []
    def think(prompt, count):
        began = time.monotonic()
        for number, _ in enumerate(model.generate(prompt, temp=0.0)):
            if number == count:
                break
        spans.append((began, time.monotonic()))
"""


def observed(probe, programs, code):
    """What the kernel side said of a program that begins with ``MODEL``, and what it says of itself."""
    program = Program(MODEL + code + "\n    print(json.dumps(spans), flush=True)\n    sys.stdin.readline()")
    programs.append(program)
    probe.track(program.pid)
    assert program.go().line() == "mapped"
    libraries = EngineLibraries(probe.kernel.attach_functions, Proc())
    try:
        assert libraries.scan(program.pid)
        spans = json.loads(program.go().line())
        events = probe.events()
        (engine,) = probe.kernel.engines(probe.number)
        program.go()
        assert program.join() == 0
    finally:
        libraries.close()
    return events, engine, spans


def test_prompts_and_tokens_are_counted(probe, programs):
    """A prompt in three batches and ten tokens after it are one inference; the next has its own."""
    code = """
    think(list(range(1, 41)), 10)
    think(list(range(1, 31)) + [200] * 30, 5)
    """
    events, engine, spans = observed(probe, programs, code)
    (first,) = [e for e in events if isinstance(e, Inference)]
    assert (first.prompt_tokens, first.decode_tokens, first.position) == (40, 10, 50)
    # The second shares 30 tokens with what is in the cache: only the other 30 are computed.
    assert (engine.run_prompt_tokens, engine.run_decode_tokens, engine.position) == (30, 5, 65)
    assert (engine.prompt_tokens, engine.decode_tokens, engine.inferences) == (70, 15, 1)
    assert engine.prompt_ns + engine.decode_ns == engine.busy_ns
    assert first.prompt_ns + first.decode_ns <= first.end_ns - first.start_ns
    for (began, ended), (start, end) in zip(
        spans, [(first.start_ns, first.end_ns), (engine.run_start_ns, engine.run_end_ns)], strict=True
    ):
        assert began <= start / NS < end / NS <= ended
    assert not engine.failed


def test_an_idle_time_ends_an_inference(probe, programs):
    """One token more after a pause is another inference, although it continues the same text."""
    code = """
    think([1, 2, 3], 4)
    time.sleep(0.3)
    model.eval([5])
    """
    events, engine, _ = observed(probe, programs, code)
    (first,) = [e for e in events if isinstance(e, Inference)]
    assert (first.prompt_tokens, first.decode_tokens) == (3, 4)
    assert (engine.run_prompt_tokens, engine.run_decode_tokens, engine.position) == (0, 1, 8)


def test_a_full_context_is_a_failed_call(probe, programs):
    """A call that the cache has no room for computes nothing, and is counted apart."""
    code = """
    batch = llama_cpp.llama_batch_init(16, 0, 1)
    def decode(count, position):
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = 5, position + i, 1, True
            batch.seq_id[i][0] = 0
        return llama_cpp.llama_decode(model._ctx.ctx, batch)
    results = [decode(16, at) for at in range(0, 528, 16)]
    assert not any(results[:-1]) and results[-1], results
    """
    _, engine, _ = observed(probe, programs, code)
    assert (engine.failed, engine.position, engine.position_peak) == (1, 512, 512)
    assert engine.prompt_tokens == 512


def test_several_sequences_in_a_batch_are_said(probe, programs):
    """A server that decodes for several clients at once: tokens count, inferences are a guess."""
    code = """
    batch = llama_cpp.llama_batch_init(16, 0, 1)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_threads, params.n_threads_batch = 512, 2, 1, 1
    model._ctx.close()
    context = llama_cpp.llama_init_from_model(model._model.model, params)
    for at in range(8):
        batch.n_tokens = 2
        for i in range(2):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = 5, at, 1, True
            batch.seq_id[i][0] = i
        assert llama_cpp.llama_decode(context, batch) == 0
    """
    events, engine, _ = observed(probe, programs, code)
    assert engine.flags & 4
    assert (engine.prompt_tokens, engine.decode_tokens, engine.position) == (0, 16, 8)
    assert not [e for e in events if isinstance(e, Inference)]


def test_parameters_of_a_context_are_seen(probe, programs):
    """Making a context tells which, and with what: the first parameter is its size."""
    events, engine, _ = observed(probe, programs, "\n    think([1, 2], 1)")
    (made,) = [e for e in events if isinstance(e, ContextMade)]
    assert (made.context, made.pid) == (engine.context, engine.pid)
    assert int.from_bytes(made.parameters[:4], "little") == 512
    wait_until(lambda: made.model, "the model")
