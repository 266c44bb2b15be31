"""Which rule a process matches. Pure but for what the facts read when they are asked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from whyidle_daemon.config import Discovery, Rule
from whyidle_daemon.discovery.candidate import Candidate, user_name

# In the configuration's own language, so that they can be copied into it and changed.
DEFAULTS_TOML: Final = """
[[rule]]
name = "llama.cpp"
executable = ["llama-server", "llama-cli", "llama-run", "llamafile*", "koboldcpp*"]

[[rule]]
name = "Ollama"
executable = ["ollama", "ollama_llama_server"]

[[rule]]
name = "vLLM"
command = ["*/vllm serve *", "vllm serve *", "* -m vllm.entrypoints.*", "VLLM::*"]

[[rule]]
name = "inference server"
command = ["*sglang.launch_server*", "*text-generation-launcher*", "*tritonserver*", "*lmdeploy serve*"]

[[rule]]
name = "whyidle agent"
command = ["*/whyidle-agent run*"]

[[rule]]
name = "agent framework"
executable = ["python*", "pypy*", "uv"]
command = [
    "*langchain*", "*langgraph*", "*autogpt*", "*auto-gpt*", "*auto_gpt*", "*crewai*", "*autogen*",
    "*babyagi*", "*smolagents*", "*llama_index*", "*superagi*", "*openhands*", "*metagpt*",
]

[[rule]]
name = "agent's environment"
executable = ["python*", "pypy*"]
environment = [
    "LANGCHAIN_*", "LANGSMITH_*", "LANGGRAPH_*", "CREWAI_*", "AUTOGPT_*", "AUTOGEN_*", "SMOLAGENTS_*",
]

[[rule]]
name = "agent's packages"
executable = ["python*", "pypy*"]
python_packages = [
    "langchain", "langchain_core", "langgraph", "crewai", "autogen", "autogen_core", "autogpt", "smolagents",
    "llama_index",
]

[[rule]]
name = "llama.cpp in the process"
maps = ["libllama.so*"]

[[rule]]
name = "CUDA in Python"
executable = ["python*", "pypy*"]
maps = ["libcuda.so*", "libamdhip64.so*"]
holds_gpu = true
"""


def _defaults() -> tuple[Rule, ...]:
    return tuple(msgspec.convert(tomllib.loads(DEFAULTS_TOML)["rule"], list[Rule]))


class Rules:
    """The rules of a configuration, those that ignore first, one's own before the built-in ones."""

    def __init__(self, config: Discovery) -> None:
        rules = [*config.rule, *(_defaults() if config.defaults else ())]
        self._rules = sorted(rules, key=lambda rule: not rule.ignore)

    def match(self, facts: Candidate) -> str | None:
        """The name of the rule by which a process is to be observed."""
        for rule in self._rules:
            if all(_holds(rule, condition, facts) for condition in rule.conditions):
                return None if rule.ignore else rule.name
        return None

    def named(self, name: str) -> Rule | None:
        """The rule of that name which observes."""
        return next((rule for rule in self._rules if rule.name == name and not rule.ignore), None)


def _holds(rule: Rule, condition: str, facts: Candidate) -> bool:
    patterns: list[str] | bool = getattr(rule, condition)
    if isinstance(patterns, bool):
        return facts.holds_gpu is patterns
    if condition == "python_packages":
        return facts.has_package(patterns)
    if condition == "environment":
        return any(_variable(pattern, facts.environment) for pattern in patterns)
    return _any_of(patterns, _texts(condition, facts))


def _texts(condition: str, facts: Candidate) -> Iterable[str]:
    """What the patterns of a condition are matched against: any of these will do."""
    if condition == "executable":
        return (facts.executable, facts.executable.rsplit("/", 1)[-1]) if facts.executable else ()
    if condition == "command":
        return (" ".join(facts.command),) if facts.executable else ()  # a kernel thread has none
    if condition == "user":
        return (user_name(facts.uid), str(facts.uid)) if facts.uid is not None else ()
    if condition == "cgroup":
        return (facts.cgroup,) if facts.cgroup else ()
    if condition == "maps":
        return [text for path in facts.mapped for text in (path, path.rsplit("/", 1)[-1])]
    where = facts.placement
    if condition == "container":
        return (f"{where.container.runtime}:{where.container.id}",) if where.container else ()
    return (where.unit,) if where.unit else ()


def _any_of(patterns: list[str], texts: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _variable(pattern: str, environment: tuple[str, ...]) -> bool:
    if "=" in pattern:
        return any(fnmatchcase(item, pattern) for item in environment)
    return any(fnmatchcase(item.partition("=")[0], pattern) for item in environment)
