"""Rules over a /proc made for the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whyidle_daemon.config import Config, Rule, parse
from whyidle_daemon.discovery.candidate import Candidate
from whyidle_daemon.discovery.rules import Rules
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import Process

PID = 42
MAP = "7f0000000000-7f0000001000 r-xp 00000000 08:01 {inode} {path}\n"


class Host:
    """A /proc with one process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process = root / str(PID)
        (self.process / "fd").mkdir(parents=True)
        (self.process / "root").mkdir()
        self.set("/usr/bin/python3.11", "python3", "agent.py")

    def set(self, executable: str, *command: str) -> Host:
        (self.process / "exe").unlink(missing_ok=True)
        (self.process / "exe").symlink_to(executable)
        (self.process / "cmdline").write_bytes(b"\0".join(word.encode() for word in command) + b"\0")
        return self

    def maps(self, *paths: str) -> Host:
        text = "".join(MAP.format(inode=n, path=path) for n, path in enumerate(paths, 1))
        (self.process / "maps").write_text(text)
        return self

    def opens(self, *paths: str) -> Host:
        for number, path in enumerate(paths):
            (self.process / "fd" / str(number)).symlink_to(path)
        return self

    def match(self, toml: str = "", defaults: bool = True) -> str | None:
        head = f"[discovery]\ndefaults = {str(defaults).lower()}\n"
        config = parse((head + toml).encode(), Path("c"))
        return Rules(config.discovery).match(Candidate(PID, Proc(self.root)))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("executable", "command", "rule"),
    [
        ("/opt/llama/bin/llama-server", ["llama-server", "-m", "x.gguf"], "llama.cpp"),
        ("/usr/local/bin/ollama", ["ollama", "serve"], "Ollama"),
        ("/usr/bin/python3.12", ["/venv/bin/python", "/venv/bin/vllm", "serve", "meta/llama"], "vLLM"),
        ("/usr/bin/python3.12", ["python", "-m", "vllm.entrypoints.openai.api_server"], "vLLM"),
        ("/usr/bin/python3.12", ["python", "/srv/langchain_agent.py"], "agent framework"),
        ("/usr/bin/python3.12", ["python", "-m", "autogpt"], "agent framework"),
        ("/usr/bin/python3.12", ["/venv/bin/python", "/venv/bin/crewai", "run"], "agent framework"),
        ("/usr/bin/python3.12", ["python", "/v/bin/whyidle-agent", "run", "--goal", "x"], "whyidle agent"),
        ("/usr/bin/python3.12", ["python", "manage.py", "runserver"], None),
        ("/usr/bin/vim.basic", ["vim", "langchain_agent.py"], None),
        ("/usr/bin/grep", ["grep", "-r", "crewai"], None),
        ("/usr/bin/bash", ["bash"], None),
    ],
)
def test_the_defaults_find_agents(host: Host, executable: str, command: list[str], rule: str | None) -> None:
    """What runs agents and models is found, and an editor with its source is not."""
    assert host.set(executable, *command).match() == rule


def test_an_agent_by_its_environment(host: Host) -> None:
    """The variables of a framework tell, in Python alone."""
    (host.process / "environ").write_bytes(b"HOME=/root\0LANGSMITH_API_KEY=x\0")
    assert host.match() == "agent's environment"
    assert host.set("/bin/sh", "sh").match() is None


def test_an_agent_by_what_is_installed_beside_its_modules(host: Host) -> None:
    """A script whose name says nothing is found by the packages of its virtual environment."""
    site = "/venv/lib/python3.12/site-packages"
    host.maps(f"{site}/pydantic_core/_pydantic_core.so", "/usr/lib/libc.so.6")
    assert host.match() is None
    (host.process / "root" / site.lstrip("/") / "langchain_core").mkdir(parents=True)
    assert host.match() == "agent's packages"


def test_a_process_cannot_make_a_look_long(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty thousand mapped modules, each in an environment of its own, and as many variables."""
    host.maps(*(f"/venv/{number}/site-packages/x.so" for number in range(60_000)))
    (host.process / "environ").write_bytes(b"a=\0" * 20_000)
    looked: list[object] = []
    monkeypatch.setattr("os.path.isdir", looked.append)
    assert host.match() is None
    assert 0 < len(looked) < 1000
    assert len(Candidate(PID, Proc(host.root)).environment) <= 1024
    assert len(Candidate(PID, Proc(host.root)).mapped) <= 8192


def test_of_many_mappings_only_the_first_are_read(host: Host) -> None:
    """Those of no file, too: what a look costs is the kernel's writing of them. No path is half of one."""
    anonymous = "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n" * 30_000
    (host.process / "maps").write_text(anonymous + MAP.format(inode=1, path="/x/libllama.so"))
    assert host.match() is None
    host.maps(*("/x/" + "y" * 100 for _ in range(60_000)))
    assert Candidate(PID, Proc(host.root)).mapped == {"/x/" + "y" * 100}


def test_by_gpu_and_library(host: Host) -> None:
    """CUDA in Python counts once it holds a GPU: importing it to count devices does not."""
    host.maps("/usr/lib/x86_64-linux-gnu/libcuda.so.1").opens("/dev/null", "/dev/nvidiactl")
    assert host.match() is None
    (host.process / "fd" / "9").symlink_to("/dev/nvidia0")
    assert host.match() == "CUDA in Python"
    assert host.maps("/x/libllama.so").match() == "llama.cpp in the process"


@pytest.mark.parametrize("banned", [False, True])
def test_packages_are_looked_for_under_guard(
    host: Host, monkeypatch: pytest.MonkeyPatch, banned: bool
) -> None:
    """The file system they are in may hang: what that costs is for who is not looked at again."""
    said: list[str] = []

    class Guard:
        """Says what is asked of it."""

        def admit(self, pid: int) -> Process | None:
            assert pid == PID
            return None if banned else Process(pid, 1, 2)

        def begin(self, process: Process) -> None:
            said.append("begin")

        def rest(self) -> None:
            said.append("rest")

    folder = host.process / "root" / "venv/lib/python3.11/site-packages"
    (folder / "crewai").mkdir(parents=True)
    host.maps("/venv/lib/python3.11/site-packages/x/y.so")
    isdir = os.path.isdir

    def looked(path: Path) -> bool:
        said.append("look")
        return isdir(path)

    monkeypatch.setattr("os.path.isdir", looked)
    candidate = Candidate(PID, Proc(host.root), Guard())
    assert candidate.has_package(["langgraph", "crewai"]) is not banned
    assert not candidate.has_package(["../x", ".hidden"])
    assert said == ([] if banned else ["begin", "look", "look", "rest"])


def test_every_condition_of_a_rule_must_hold(host: Host) -> None:
    """User, cgroup, container and unit are conditions as well."""
    status = "Uid:\t{0}\t{0}\t{0}\t{0}\n".format(os.getuid())
    (host.process / "status").write_text(status)
    (host.process / "cgroup").write_text("0::/system.slice/agents.service\n")
    rule = "[[discovery.rule]]\nname = 'mine'\nuser = ['{}']\nunit = ['agents.*']\n"
    assert host.match(rule.format(os.getuid()), defaults=False) == "mine"
    assert host.match(rule.format(os.getuid() + 1), defaults=False) is None
    docker = f"0::/system.slice/docker-{'ab' * 32}.scope\n"
    (host.process / "cgroup").write_text(docker)
    assert host.match("[[discovery.rule]]\nname = 'c'\ncontainer = ['docker:*']\n", defaults=False) == "c"
    assert host.match("[[discovery.rule]]\nname = 'c'\ncgroup = ['/system*']\n", defaults=False) == "c"
    assert host.match("[[discovery.rule]]\nname = 'c'\nunit = ['*']\n", defaults=False) is None
    assert host.match("[[discovery.rule]]\nname = 'c'\nholds_gpu = false\nmaps=['*']", defaults=False) is None


def test_ignoring_wins(host: Host) -> None:
    """A rule that ignores is asked first, wherever it stands."""
    host.set("/usr/bin/python3", "python3", "langchain.py")
    ignore = "[[discovery.rule]]\nname = 'no'\ncommand = ['*langchain*']\nignore = true\n"
    assert host.match() == "agent framework"
    assert host.match(ignore) is None


def test_gone_and_kernel_threads_match_nothing(host: Host, tmp_path: Path) -> None:
    """Without an executable there is nothing to observe, whatever the rule."""
    rules = Rules(
        parse(b"[[discovery.rule]]\nname='all'\nexecutable=['*']\ncommand=['*']", Path("c")).discovery
    )
    assert rules.match(Candidate(99, Proc(tmp_path))) is None


def test_no_rule_takes_long_on_a_hostile_command(host: Host) -> None:
    """A pattern with many stars over the longest command line is linear: the suite's time-out is the test."""
    host.set("/usr/bin/python3", "a" * 4000)
    rule = Rule("stars", command=["*a" * 200 + "b"])
    config = Config().discovery.__class__(rule=[rule])
    for _ in range(50):
        assert Rules(config).match(Candidate(PID, Proc(host.root))) is None
