"""``/etc/whyidle/config.toml``: what an administrator may set, and one clear line for every mistake.

A file with a mistake is refused as a whole: half a configuration is not what anybody asked for. All values
have defaults, so an empty file, and none, are good ones. Patterns are those of a shell (``*``, ``?``,
``[ab]``) and never regular expressions: they are matched against text that hostile processes choose, and a
regular expression can be made to take forever.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

DEFAULT_PATH: Final = Path("/etc/whyidle/config.toml")
MAX_BYTES: Final = 1 << 20
# 664 bytes each, and twice while bcc compiles: with what the loader itself takes, more would not fit into the
# unit's MemoryMax=.
MAX_THREADS: Final = 1 << 17

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Pattern = Annotated[str, Meta(min_length=1, max_length=500)]
Patterns = Annotated[list[Pattern], Meta(max_length=100)]


class ConfigError(Exception):
    """The configuration cannot be used; ``str`` is one line with the file, the key and what is wrong."""

    def __init__(self, path: Path, key: str, what: str) -> None:
        super().__init__(": ".join(part for part in (str(path), key, what) if part))


class Rule(Struct, forbid_unknown_fields=True, frozen=True):
    """Which processes to observe. Every condition that is set must hold, by one of its patterns.

    ``executable``: the name of the program's file, or its path where the pattern has a ``/``. ``command``:
    the command line, arguments joined by spaces. ``user``: name or number. ``cgroup``: the path.
    ``container``: ``docker:ID``, ``podman:ID``, ...; ``unit``: the systemd unit. ``environment``: ``NAME``
    or ``NAME=VALUE``. ``python_packages``: installed where the process has its compiled modules from.
    ``holds_gpu``: has a GPU's device open. ``maps``: name of a mapped file. ``ignore``: never observe these.
    """

    name: Name
    executable: Patterns = []
    command: Patterns = []
    user: Patterns = []
    cgroup: Patterns = []
    container: Patterns = []
    unit: Patterns = []
    environment: Patterns = []
    python_packages: Patterns = []
    maps: Patterns = []
    holds_gpu: bool | None = None
    ignore: bool = False

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of those that are set."""
        return tuple(name for name in CONDITIONS if getattr(self, name) not in ([], None))


CONDITIONS: Final = tuple(
    name for name in Rule.__struct_fields__ if name not in ("name", "ignore")
)  # cheap ones first: the order in which they are looked at


class Discovery(Struct, forbid_unknown_fields=True, frozen=True):
    """Finding what to observe. ``defaults``: also the rules that are built in, after one's own."""

    enabled: bool = True
    defaults: bool = True
    max_targets: Annotated[int, Meta(ge=1, le=64)] = 32
    rule: Annotated[list[Rule], Meta(max_length=100)] = []


class Access(Struct, forbid_unknown_fields=True, frozen=True):
    """Who may ask for what. Root and ``group`` see everything.

    ``others``: ``"none"`` may connect, or each user sees his ``"own"`` processes.
    """

    group: Name = "whyidle"
    others: Literal["none", "own"] = "none"
    connections_per_user: Annotated[int, Meta(ge=1, le=64)] = 16
    observations_per_user: Annotated[int, Meta(ge=1, le=64)] = 8
    requests_per_second: Annotated[int, Meta(ge=1, le=10_000)] = 50


class Metrics(Struct, forbid_unknown_fields=True, frozen=True):
    """What Prometheus may scrape: nothing unless ``listen`` is set, ``ADDRESS:PORT`` (IPv6: ``[::1]:9747``).

    ``functions`` adds the names of functions and lines, which every user who can connect then reads.
    """

    listen: Annotated[str, Meta(max_length=100)] = ""
    functions: bool = False
    max_workloads: Annotated[int, Meta(ge=1, le=1000)] = 50

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises ValueError unless it is a number for each."""
        host, _, port = self.listen.rpartition(":")
        host = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError("expected ADDRESS:PORT, such as 127.0.0.1:9747")
        return str(ipaddress.ip_address(host)), int(port)

    @property
    def loopback(self) -> bool:
        """Only this host can connect."""
        return ipaddress.ip_address(self.address[0]).is_loopback


class History(Struct, forbid_unknown_fields=True, frozen=True):
    """What is kept for ``whyidle report --since``: the oldest goes first."""

    enabled: bool = True
    max_megabytes: Annotated[int, Meta(ge=32, le=1 << 20)] = 1024
    max_age_days: Annotated[float, Meta(gt=0, le=3660)] = 7.0
    part_minutes: Annotated[float, Meta(ge=0.01, le=1440)] = 10.0


class Daemon(Struct, forbid_unknown_fields=True, frozen=True):
    """The daemon itself. ``max_threads`` needs a restart; a stall is a wait reported while it lasts."""

    max_threads: Annotated[int, Meta(ge=64, le=MAX_THREADS)] = 16384
    stall_threshold_s: Annotated[float, Meta(ge=0.05, le=86400)] = 1.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    daemon: Daemon = Daemon()
    access: Access = Access()
    discovery: Discovery = Discovery()
    history: History = History()
    metrics: Metrics = Metrics()


def load(path: Path | None) -> Config:
    """Read and check a file; ``None`` is the default one, which need not exist. Raises ConfigError."""
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    return parse(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        # Not blocking: a FIFO in place of the file must not hang the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(path, "", "is not a regular file")
        if mode & stat.S_IWOTH:
            raise ConfigError(path, "", "may be written by everybody; chmod o-w it")
        data = b""
        while len(data) <= MAX_BYTES and (part := os.read(descriptor, MAX_BYTES + 1)):
            data += part
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise ConfigError(path, "", f"is longer than {MAX_BYTES >> 20} MiB")
    return data


def parse(data: bytes, path: Path) -> Config:
    """Check a file's content; ``path`` is for the message. Raises ConfigError."""
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, f"line {line}", "is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(path, "", f"is not TOML: {_one_line(str(error)) or 'nested too deep'}") from None
    _known_keys(table, Config, "", path)
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(path, *_explained(str(error))) from None
    if config.metrics.listen:
        try:
            config.metrics.address  # noqa: B018 (it is checked where it is asked for)
        except ValueError as error:
            raise ConfigError(path, "metrics.listen", _one_line(str(error))) from None
    names: set[str] = set()
    for number, rule in enumerate(config.discovery.rule, 1):
        key = f"discovery.rule[{number}]"
        if not rule.conditions:
            raise ConfigError(path, key, "has no condition, and would match every process; add one")
        if rule.name in names:
            raise ConfigError(path, f"{key}.name", f"{rule.name!r} is the name of another rule already")
        names.add(rule.name)
    return config


def _known_keys(value: Any, kind: Any, where: str, path: Path) -> None:
    """Refuse keys that do not exist, with the nearest one that does."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is list and isinstance(value, list):
        for number, item in enumerate(value, 1):
            _known_keys(item, get_args(kind)[0], f"{where}[{number}]", path)
    if not (isinstance(kind, type) and issubclass(kind, Struct) and isinstance(value, dict)):
        return
    fields = get_type_hints(kind, include_extras=True)
    known = kind.__struct_fields__
    for key, item in value.items():
        place = f"{where}.{key}" if where else key
        if key not in known:
            import difflib  # noqa: PLC0415 (0.2 MB, for those who make a mistake)

            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(path, _one_line(place), f"there is no such key; {hint}")
        _known_keys(item, fields[key], place, path)


def _explained(text: str) -> tuple[str, str]:
    """msgspec's message as (key, what is wrong)."""
    what, _, where = text.partition(" - at `$")
    # Counted from 1, as a person counts [[discovery.rule]].
    key = re.sub(r"\[(\d+)\]", lambda match: f"[{int(match[1]) + 1}]", where.strip("`").lstrip("."))
    return key, _one_line(what.replace("`", "")).replace("Expected", "expected", 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
