"""The memory over a real store: both policies, a full disk, and files that are not one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from memory_fakes import Letters, line, write

from whyidle_agent.errors import AgentError
from whyidle_agent.memory.account import MAX_POINTS, Account
from whyidle_agent.memory.policies import Managed, Memory, Unbounded
from whyidle_agent.memory.store import StoreFullError, VectorStore
from whyidle_agent.memory.window import Limits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Both policies over one history file, on stores of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = folder / "history.jsonl"
        self.history.touch()
        self.embedder, self.clock = Letters(), Clock()
        self.said: list[str] = []
        self.opened: list[VectorStore] = []

    def store(self, name: str = "memory.db") -> VectorStore:
        self.opened.append(VectorStore(self.folder / name, Letters.dimensions, Letters.name))
        return self.opened[-1]

    def unbounded(self) -> Unbounded:
        return Unbounded(self.history, self.store(), self.embedder, self.said.append)

    def managed(self, limits: Limits = Limits(window=4)) -> Managed:  # noqa: B008 - frozen
        return Managed(
            self.history, self.store(), self.embedder, self.said.append, limits=limits, now=self.clock
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for store in made.opened:
        store.close()


def rows(memory: Memory) -> int:
    return memory._store.count()


def test_unbounded_keeps_everything_twice(bench: Bench) -> None:
    """As found: a message is indexed when it comes and when its step is, and a repeated one again."""
    memory = bench.unbounded()
    for step in range(1, 11):
        write(bench.history, line(step, "gpu idle", "a queue"))
        memory.catch_up()
    account = memory.account
    assert account.entries == rows(memory) == account.indexed == 40
    assert account.duplicates == 38
    held = [point[2] for point in account.as_json()["points"]]
    assert all(b - a == held[1] - held[0] > 0 for a, b in pairwise(held))


def test_managed_merges_what_comes_up_again(bench: Bench) -> None:
    """Each content is embedded, stored and held once, however often it comes."""
    memory = bench.managed()
    for step in range(1, 11):
        write(bench.history, line(step, "gpu idle", "a queue"))
        memory.catch_up()
    assert rows(memory) == memory.account.entries == memory.account.indexed == 2
    assert memory.account.merged == 18
    assert len(bench.embedder.texts) == 2


def test_managed_holds_a_window_and_lets_go_of_what_is_old(bench: Bench) -> None:
    """In the process the last N; on disk what came up within the time-to-live, and its room is given back."""
    memory = bench.managed(Limits(window=4, ttl_s=60.0, compact_every=10))
    sizes = []
    for step in range(1, 301):
        bench.clock.now += 1.0
        write(bench.history, line(step, f"query {step}", f"result {step} " + "x" * 500))
        memory.catch_up()
        assert memory.account.entries <= 4
        sizes.append(memory.store_bytes())
    assert rows(memory) == 2 * 61  # now and the 60 seconds before
    assert memory.account.expired == 2 * (300 - 61)
    assert memory.account.compactions == 30
    assert max(sizes[150:]) <= max(sizes[:150])


def test_what_comes_up_again_lives_on(bench: Bench) -> None:
    """The time-to-live counts from the last time."""
    memory = bench.managed(Limits(window=4, ttl_s=60.0))
    for step in range(1, 5):
        bench.clock.now += 50.0
        write(bench.history, line(step, "again", "again and again"))
        memory.catch_up()
    bench.clock.now += 61.0
    write(bench.history, line(5, "other", "news"))
    memory.catch_up()
    assert "again" not in memory.recall("again").text
    assert memory.account.expired == 2


@pytest.mark.parametrize("policy", ["unbounded", "managed"])
def test_recall_finds_the_nearest(bench: Bench, policy: str) -> None:
    """Of all that was remembered, the nearest first, and no content twice."""
    memory: Memory = bench.unbounded() if policy == "unbounded" else bench.managed()
    assert memory.recall("zebra").text == "nothing is remembered yet"
    for step, word in enumerate(("jazz", "zebra crossing", "kernel", "kernel", "pdf"), start=1):
        write(bench.history, line(step, word, f"{word} found"))
    memory.catch_up()
    text = memory.recall("kernel found").text
    assert text.startswith("step ")
    assert "kernel found" in text.split(" / ")[0]
    assert text.count("kernel found") == 1
    assert "zebra crossing found" in memory.recall("crossing zebra found").text.split(" / ")[0]


@pytest.mark.parametrize("policy", ["unbounded", "managed"])
def test_a_second_run_goes_on_where_the_first_stopped(bench: Bench, policy: str) -> None:
    """What the history has and the store has not is added at the start; nothing is added twice."""
    make = bench.unbounded if policy == "unbounded" else bench.managed
    first: Memory = make()
    write(bench.history, line(1, "one", "first"))
    first.catch_up()
    first.close()
    write(bench.history, line(2, "two", "second"), line(3, "three", "third")[:-5])  # killed while writing
    second: Memory = make()
    second.catch_up()
    each = 4 if policy == "unbounded" else 2
    assert rows(second) == 2 * each
    assert "step 1" in second.recall("first").text


@pytest.mark.parametrize("policy", ["unbounded", "managed"])
def test_a_full_disk_is_said_once_and_loses_nothing(bench: Bench, policy: str) -> None:
    """The run goes on without room; when there is room, all of it is there, in order and once."""
    memory: Memory = bench.unbounded() if policy == "unbounded" else bench.managed(Limits(window=200))
    write(bench.history, line(0, "zero", "begin"))
    memory.catch_up()
    db = memory._store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite answers as for a full file system
    texts = [f"result {step} " + "y" * 900 for step in range(1, 31)]
    for step, text in enumerate(texts, start=1):
        write(bench.history, line(step, f"query {step}", text))
        memory.catch_up()
    assert memory.account.store_full > 10
    assert len(bench.said) == 1
    assert "no space left" in bench.said[0]
    assert "\n" not in bench.said[0]
    db.execute("PRAGMA max_page_count = 100000")
    memory.catch_up()
    held = [one.text for one, _ in memory._store.everything() if one.kind == "result"]
    assert list(dict.fromkeys(held)) == ["begin", *texts]
    assert len(held) == 31 * (2 if policy == "unbounded" else 1)
    assert memory.account.entries == rows(memory)


def test_a_step_is_in_the_store_or_not(bench: Bench) -> None:
    """An error in the middle of a step leaves nothing of it."""
    store = bench.store()

    def half() -> None:
        with store.transaction():
            store.set_offset(77)
            raise StoreFullError

    with pytest.raises(StoreFullError):
        half()
    assert store.offset == 0


def test_killed_at_any_moment_the_store_is_whole(tmp_path: Path) -> None:
    """A process that dies while it writes leaves a store that opens, and that knows what it holds."""
    write(
        tmp_path / "history.jsonl", *(line(step, f"query {step}", f"result {step}") for step in range(3000))
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_memory_store import Bench\n"
        "memory = Bench(Path(sys.argv[1])).managed(); print('ready', flush=True); memory.catch_up()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, Path(__file__).parent], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        wal = tmp_path / "memory.db-wal"
        while process.poll() is None and not (wal.exists() and wal.stat().st_size > 200_000):
            pass
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    bench = Bench(tmp_path)
    memory = bench.managed(Limits(window=4))
    before = rows(memory)
    assert 0 < before < 6000
    memory.catch_up()
    assert rows(memory) == 6000
    memory.close()


def test_two_agents_in_one_folder_are_one_clear_error(bench: Bench) -> None:
    """The second is told that the folder is in use."""
    memory = bench.unbounded()
    write(bench.history, line(1, "one", "first"))
    memory.catch_up()
    with pytest.raises(AgentError, match="locked") as error:
        bench.store()
    assert "--workdir" in error.value.todo


def test_a_file_that_is_no_store_is_one_clear_error(bench: Bench) -> None:
    """Neither a text, nor a link, nor another model's vectors, nor a damaged database is used."""
    (bench.folder / "text.db").write_text("not a database, " * 100)
    (bench.folder / "link.db").symlink_to(bench.folder / "text.db")
    with pytest.raises(AgentError, match="not a database"):
        bench.store("text.db")
    with pytest.raises(AgentError, match="symbolic link"):
        bench.store("link.db")
    bench.store("other.db").close()
    with pytest.raises(AgentError, match="another model"):
        VectorStore(bench.folder / "other.db", 99, "bigger")
    assert (bench.folder / "text.db").read_text().startswith("not a database")


def test_a_damaged_store_is_one_clear_error(bench: Bench) -> None:
    """Zeros in the middle of the file end the run with a reason that names the file."""
    memory = bench.managed(Limits(window=4))
    for step in range(200):
        write(bench.history, line(step, f"query {step}", f"result {step} " + "z" * 400))
    memory.catch_up()
    memory.close()
    path = bench.folder / "memory.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    write(bench.history, line(999, "query", "result"))

    def use() -> None:
        damaged = bench.managed(Limits(window=4))
        damaged.catch_up()
        damaged.recall("result 7")

    with pytest.raises(AgentError, match=r"memory\.db"):
        use()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "memory").write_text("")
    with pytest.raises(AgentError, match="memory"):
        VectorStore(tmp_path / "memory" / "memory.db", 3, "m")


def test_the_account_does_not_grow_and_is_even() -> None:
    """Ten thousand steps: few points, equally far apart, in room that was there from the start."""
    account = Account("managed")
    room = sys.getsizeof(account._points)
    for step in range(10_000):
        account.point(step)
    steps = [point[1] for point in account.as_json()["points"]]
    assert MAX_POINTS / 2 <= len(steps) < MAX_POINTS
    assert steps[0] == 0
    assert len({after - before for before, after in pairwise(steps)}) == 1
    assert steps[-1] > 9900
    assert sys.getsizeof(account._points) == room
