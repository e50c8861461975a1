"""A small study that takes a second, as a file and as a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = """\
study: Small
question: Does it run?
hypothesis: It does.
why: To test the executor.
workload: {workload: digits_mlp, batch: 64, hidden: 8}
recipe: {optimizer: sgd, momentum: 0.9}
arms:
  constant: {lr: 0.1}
  cosine: {lr: {schedule: cosine, peak: 0.1}}
baseline: cosine
seeds: 3
steps: 300
metric: {name: test_accuracy, margin: 0.005}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The study above, in a file."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path
