"""The tables of the README and of RESULTS.md are those of the results that are kept."""

from __future__ import annotations

from pathlib import Path

from benchmarks import results
from benchmarks.__main__ import ALL
from benchmarks.measure import ROOT, Row


def test_the_readme_shows_what_was_measured() -> None:
    """Nothing in its block is typed by hand."""
    text = (ROOT / "README.md").read_text()
    block = text.split("<!-- benchmarks: begin -->\n")[1].split("\n<!-- benchmarks: end -->")[0]
    assert block == results.headlines(results.load())


def test_the_page_shows_what_was_measured() -> None:
    """All of it, and every result is of a benchmark that exists."""
    found = results.load()
    assert found.keys() <= {*ALL, *results.ELSEWHERE}
    assert results.PAGE.read_text() == results.page(found, list(ALL))


def test_a_result_is_kept_with_its_machine(tmp_path: Path) -> None:
    """One benchmark can be run again without the others."""
    results.store("a", "Title", [Row("what", "1 ns", "≤2 ns", "met")], tmp_path)
    results.store("b", "Other", [], tmp_path)
    found = results.load(tmp_path)
    assert list(found) == ["a", "b"]
    told = results.table("a", found["a"])
    assert "| what | 1 ns | ≤2 ns | met |" in told
    assert f"Linux {found['a']['kernel']}" in told


def test_what_is_run_by_itself_says_by_which_command() -> None:
    """A soak of an hour is no part of ``python -m benchmarks``, and stands on the page after all that are."""
    found = {name: {**results.load()["stacks"], "title": name} for name in ("soak", "stacks")}
    page = results.page(found, ["stacks"])
    assert page.index("**stacks**") < page.index("**soak**")
    assert "`python -m benchmarks.soak --keep`" in page
