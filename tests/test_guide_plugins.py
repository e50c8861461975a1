"""The examples of the pages on plug-ins and cards run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.references.table import strangers_gone

import rheostat as rs
from rheostat.core.card import LABELS

GUIDE = Path(__file__).parent.parent / "docs" / "guide"


def test_the_examples_on_plugins_run_in_order() -> None:
    text = (GUIDE / "plugins.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {"__name__": "guide_plugins"}
    with strangers_gone():
        for block in blocks:
            exec(block, names)
    with pytest.warns(FutureWarning, match="halve@1 is deprecated: use halve@2; goes in 2.0"):
        names["halve_1"]()


def test_the_page_on_cards_names_every_label_and_says_what_is_so() -> None:
    text = (GUIDE / "cards.md").read_text(encoding="utf-8")
    assert [label for label in LABELS if f"`{label}:`" not in text] == []
    card = rs.component("adamw").card
    assert str(card.usual("lr")) in text
    assert card.state_bytes(4096, 1024) == 8 * 4096 * 1024
