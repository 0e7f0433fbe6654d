"""The catalogue is drawn from the rules, and the one that is checked in is up to date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onnxopt import catalogue
from onnxopt.errors import BadInput
from onnxopt.report.markdown import markdown

ROOT = Path(__file__).resolve().parents[1]


def test_a_page_says_what_the_rule_says() -> None:
    found = catalogue.entry("fuse_gelu")
    assert (found.kind, found.exactness, found.opsets) == ("fuse", "close", (20, None))
    assert ("as PyTorch spells it", "becomes") in found.cases
    text = markdown(catalogue.page(found))
    for words in (found.summary, found.before, found.after, "rounding may differ", "20 and later"):
        assert words in text


def test_a_rule_that_is_off_says_why() -> None:
    found = replace(catalogue.entry("fuse_gelu"), off_because="it was slower")
    assert "it was slower; --enable fuse_gelu turns it on" in markdown(catalogue.page(found))
    assert "Off without `--enable`: it was slower." in catalogue.document((found,))


def test_every_rule_is_in_the_overview_once() -> None:
    found = catalogue.entries()
    text = markdown(catalogue.overview(found))
    assert [text.count(f"| {each.name} ") for each in found] == [1] * len(found)


def test_every_rule_has_a_page_of_its_own_words() -> None:
    for each in catalogue.entries():
        assert each.summary.endswith((".", "…")), f"{each.name}: {each.summary!r} is no sentence"
        assert each.before, each.name
        assert each.after, each.name
        assert each.kind in catalogue.KINDS, each.name


def test_an_unknown_rule_is_an_error_with_the_closest_name() -> None:
    with pytest.raises(BadInput) as caught:
        catalogue.entry("fuse_geluu")
    assert "fuse_gelu" in caught.value.hint


def test_the_catalogue_that_is_checked_in_is_up_to_date() -> None:
    assert catalogue.main(["--check", str(ROOT / "rules" / "README.md")]) == 0


def test_a_stale_catalogue_is_noticed_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("old")
    assert catalogue.main(["--check", str(path)]) == 1
    assert catalogue.main([str(path)]) == 0
    assert catalogue.main(["--check", str(path)]) == 0
