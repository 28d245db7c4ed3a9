"""The page says what the records say, no more, and hides nothing that failed or is missing."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess

import pytest

from edit_sweeps.record import Record
from edit_sweeps.report import short_names, write_report
from tests.synthetic_study import COUNTS, TASKS, make_record, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The synthetic study, with its report written."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "synthetic")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return (study / "report.html").read_text(encoding="utf-8")


def embedded(page: str, name: str):
    return json.loads(
        re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[
            1
        ]
    )


def save(folder, *records: Record):
    for record in records:
        record.save(folder / "cells" / record.name)
    return folder


def test_every_chart_is_valid_vega_lite_and_draws_its_points(page):
    import vl_convert

    specs = embedded(page, "charts")
    assert len(specs) == len(TASKS) + 5 + 1
    for name, spec in specs.items():
        vl_convert.vegalite_to_vega(spec)
        assert f'id="{name}"' in page
        assert len(spec["datasets"]["points"]) == 2 * len(COUNTS) - 2
    svg = vl_convert.vegalite_to_svg(specs["chart-0"] | {"width": 300})
    assert svg.count('aria-roledescription="point"') == 2 * len(COUNTS) - 2


class Checker(html.parser.HTMLParser):
    """Finds tags that do not match, and whatever a browser would fetch."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href", "srcset", "data", "action"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_is_whole_and_fetches_nothing(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.fetched == []
    assert checker.seen.count("figure") == len(TASKS) + 5
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert len(page.encode()) < 2_000_000


def test_the_page_shows_what_failed_collapsed_and_is_missing(page):
    assert "11 cells: 8 done, 1 collapsed, 1 failed, 1 missing" in page
    assert "ValueError: layer 9: the model has 4 &lt;blocks&gt;" in page
    assert page.count('class="void" colspan="9"') == 2
    table = embedded(page, "rows")
    assert "num_edits" in table["columns"]
    assert "dataset" not in table["columns"], "it is the same in all edited cells"
    assert all(
        len(row) - 1 + len(table["cells"][row[0]]) == len(table["columns"]) for row in table["rows"]
    )


def test_text_of_records_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script>"
    record = make_record("rome", 1, overrides={"x": evil})
    record.scores[evil] = record.scores.pop("miniature_ner")
    record.errors["miniature_ner"] = evil
    page = write_report(
        save(tmp_path / evil.replace("/", ""), record, make_record("rome", 1))
    ).read_text()
    assert "<script>alert" not in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.seen.count("script") == 4


def test_an_empty_study_and_one_without_tasks_have_a_page(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "nothing has run yet" in write_report(tmp_path / "empty").read_text()
    record = make_record("rome", 1)
    record.scores, record.comparisons = (
        {"edit": x["edit"]} for x in (record.scores, record.comparisons)
    )
    page = write_report(save(tmp_path / "edits", record)).read_text()
    assert "efficacy 0.99" in page
    assert "tasks lost" not in page
    assert len(embedded(page, "charts")) == 5


def test_short_names_drop_what_all_share():
    assert short_names(["miniature_open_qa", "miniature_ner"]) == {
        "miniature_open_qa": "open qa",
        "miniature_ner": "ner",
    }
    assert short_names(["a_b", "a_b_c"]) == {"a_b": "b", "a_b_c": "b c"}
    assert short_names(["gsm8k", "miniature_ner"]) == {
        "gsm8k": "gsm8k",
        "miniature_ner": "miniature ner",
    }
    assert short_names(["a_b"]) == {"a_b": "a b"}
    assert short_names([]) == {}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="Chromium is not installed: the page was not drawn"
)
def test_a_browser_draws_every_chart_without_an_error(study, page, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", f"file://{study / 'report.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('class="marks"') == len(embedded(page, "charts"))
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
