"""Tries the promises in full and prints their table for README.md beside it, in Markdown.

    python -m tests.promises              all of them, six minutes on two cores
    python -m tests.promises kill race    those
    python -m tests.promises --plain      as often as a plain run of the tests does, a minute

Exit code 0 if all hold.
"""

import datetime
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from .table import PROMISES, Promise

TESTS = Path(__file__).parents[1]


class Count:
    """What the tests of each promise found: (held, failed)."""

    def __init__(self, chosen: dict[str, Promise], plain: bool) -> None:
        self.chosen, self.other = chosen, "[full]" if plain else "[plain]"
        self.found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if not self.wanted(item)])
        items[:] = filter(self.wanted, items)

    def wanted(self, item: pytest.Item) -> bool:
        """A promise's own tests, not those of its planted faults, and each in one size."""
        sizes = "tally" in getattr(item, "fixturenames", ())
        return self.promise(item.nodeid) is not None and not (sizes and item.nodeid.endswith(self.other))

    def promise(self, node: str) -> str | None:
        path = node.partition("tests/")[2]
        for name, promise in self.chosen.items():
            if path.partition("[")[0] in promise.tests or path.partition("::")[0] in promise.tests:
                return name
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = self.promise(report.nodeid)
        if name is None or report.skipped:
            return
        self.seconds[name] += report.duration
        counted = dict(report.user_properties)
        if report.when == "call" and "passed" in counted:
            self.found[name][0] += int(str(counted["passed"]))
            self.found[name][1] += int(str(counted["failed"]))
        elif report.when == "call" or report.failed:
            self.found[name][report.failed] += 1

    def held(self, name: str) -> bool:
        promise, (good, bad) = self.chosen[name], self.found[name]
        return not bad and good >= (promise.plain if self.other == "[full]" else promise.full)

    def table(self) -> str:
        lines = ["| promise | held | failed | seconds |", "|---|---:|---:|---:|"]
        for name, promise in self.chosen.items():
            good, bad = self.found[name]
            lines.append(f"| {promise.says} | {good:,} | {bad:,} | {self.seconds[name]:.0f} |")
        held = sum(map(self.held, self.chosen))
        lines.append(f"\n{held} of {len(self.chosen)} promises held, {datetime.date.today()}, {os.cpu_count()} cores.")
        return "\n".join(lines)


def main(arguments: list[str]) -> int:
    plain = "--plain" in arguments
    names = [name for name in arguments if name != "--plain"] or list(PROMISES)
    unknown = [name for name in names if name not in PROMISES]
    if unknown:
        print(f"{unknown[0]}: no such promise; choose from {', '.join(PROMISES)}", file=sys.stderr)
        return 2
    count = Count({name: PROMISES[name] for name in names}, plain)
    files = {TESTS / test.partition("::")[0] for name in names for test in PROMISES[name].tests}
    marked = "not mutation and not long" if plain else "not mutation"
    options = ["-q", "-m", marked, f"--rootdir={TESTS.parent}", "-p", "no:cacheprovider"]
    pytest.main([*options, *sorted(str(file) for file in files if file.exists())], plugins=[count])
    print(count.table())
    return 0 if all(map(count.held, names)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
