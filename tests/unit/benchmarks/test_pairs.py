"""How a slowdown is told from noise."""

import math
import random

import pytest
from benchmarks.pairs import slowdown


def test_by_hand() -> None:
    """Ten pairs: log ratios of +1 % and +3 % in turn, t = 2.262 for nine degrees of freedom."""
    bare = [2.0] * 10
    times = [2.0 * math.exp(0.01 if number % 2 else 0.03) for number in range(10)]
    found = slowdown(times, bare)
    reach = 2.262 * (0.01 * math.sqrt(10 / 9)) / math.sqrt(10)
    assert found.low == pytest.approx(math.exp(0.02 - reach))
    assert found.high == pytest.approx(math.exp(0.02 + reach))
    assert found.told_from_zero
    assert found.pairs == 10


def test_drift_that_hits_both_does_not_count() -> None:
    """A machine that gets slower by the minute makes pairs slower and not their ratio."""
    bare = [1.0 + number for number in range(10)]
    found = slowdown([value * 1.5 for value in bare], bare)
    assert found == pytest.approx((1.5, 1.5, 1.5, 10))


def test_nothing_is_rarely_taken_for_something() -> None:
    """Of a thousand comparisons without any difference, about 5 % are told from zero."""
    dice = random.Random(1)
    wrong = 0
    for _ in range(1000):
        bare = [dice.lognormvariate(0, 0.05) for _ in range(10)]
        wrong += slowdown([dice.lognormvariate(0, 0.05) for _ in range(10)], bare).told_from_zero
    assert 25 <= wrong <= 80


@pytest.mark.parametrize("count", [0, 1])
def test_one_pair_tells_nothing(count: int) -> None:
    """No interval is made up."""
    with pytest.raises(ValueError, match="two pairs"):
        slowdown([1.0] * count, [1.0] * count)
