"""What docs/gate.md says in numbers is what the code computes."""

import doctest
import re
from pathlib import Path

from trainer import looks, paired

PAGE = Path(__file__).parents[2] / "docs" / "gate.md"


def test_the_worked_example_gives_what_it_says():
    """Each line of it is run."""
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)

    assert failed == 0
    assert attempted >= 8


def test_the_tables_of_power_are_computed():
    """By disagreement and look, and by size and gain."""
    shares = [looks.share(k) for k in range(1, 11)]
    columns = [shares[0], shares[1], shares[2], shares[4], shares[9], sum(shares[:2]), sum(shares[:5])]
    by_look = {f"{d:.0%}": [paired.power(2000, d, 0.02, alpha) for alpha in columns] for d in (0.06, 0.08, 0.10)}
    gains = (0.005, 0.01, 0.02, 0.03)
    sizes = (500, 1000, 2000, 5000, 10_000)
    by_size = {f"{n:,}": [paired.power(n, 0.08, gain, shares[0]) for gain in gains] for n in sizes}

    for name, row in {**by_look, **by_size}.items():
        shown = [f"{chance:.0%}".replace("%", " %") for chance in row]
        line = f"| {name.replace('%', ' %')} | {' | '.join(shown)} |"
        assert re.search(f"^{re.escape(line)}$", PAGE.read_text(encoding="utf-8"), re.MULTILINE), line
