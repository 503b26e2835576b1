"""Command line and output of the benchmarks: Markdown tables, or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Lines = Sequence[Sequence[str]]


class Report(Protocol):
    """The figures of a benchmark."""

    def as_dict(self) -> dict[str, Any]:
        """All figures as JSON-safe values."""

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and lines of each table."""


def parser(doc: str | None, *, ratings: bool = False, seeds: int = 0) -> argparse.ArgumentParser:
    """A parser with the option --json.

    Args:
        doc: the module's docstring.
        ratings: whether the benchmark needs a file of ratings.
        seeds: default of --seeds; 0: no such option.
    """
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if ratings:
        result.add_argument("ratings", type=Path, help="a file of ratings like u.data")
    if seeds:
        result.add_argument("--seeds", type=int, default=seeds, help="splits (default: %(default)s)")
        result.add_argument("--first-seed", type=int, default=0, help="the first seed; others follow")
    result.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
    return result


def seeds_of(options: argparse.Namespace) -> range:
    """The seeds of the command line."""
    return range(options.first_seed, options.first_seed + options.seeds)


def say(words: str) -> None:
    """Print progress on standard error."""
    print(words, file=sys.stderr, flush=True)


def markdown(title: str, columns: Sequence[str], lines: Lines) -> str:
    """A Markdown table under a heading."""
    rows = [list(columns), ["---"] * len(columns), *lines]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def figure_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of figures by the name of their row and column."""
    columns = list(next(iter(rows.values())))
    lines = [[name, *(_figure(figures[column]) for column in columns)] for name, figures in rows.items()]
    return markdown(title, ["", *columns], lines)


def _figure(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 1.5 else f"{value:.4f}".replace("0.", ".", 1)


def show(report: Report, json_file: Path | None) -> None:
    """Print the tables, and write the figures."""
    for title, columns, lines in report.tables():
        print(markdown(title, columns, lines))
    write_json(report.as_dict(), json_file)


def write_json(figures: Any, json_file: Path | None) -> None:
    """Write figures as JSON, if a file is named."""
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
