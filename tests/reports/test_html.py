"""The report as a file: what it holds, in what order, and that nothing from a request gets out of its place."""

import base64
import csv
import io
import itertools
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from reporting import HOSTILE, KINDS, find_verdict, write_pages

from evaluator.errors import InputError, UsageError
from evaluator.records import MetricStatus, VerdictWord
from evaluator.reports import FORMATS, Page, to_json
from evaluator.reports.html import to_html
from evaluator.reports.templating import FILTERS

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Reader(HTMLParser):
    """Elements in order, with their attributes and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.wrong, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read_text(page, between=" "):
    """The visible text; numbers and their units are tied by no-break spaces."""
    return between.join(Reader(page).text).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def verdicts():
    return {name: find_verdict(name) for name in KINDS}


@pytest.fixture(scope="module")
def pages(build_once):
    folder = build_once("pages", write_pages)
    return {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_well_formed_and_loads_nothing(pages, kind):
    page = Reader(pages[kind])
    assert not page.wrong
    assert not page.open
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "base", "foreignobject", "image", "use"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert "@import" not in pages[kind]
    assert "url(http" not in pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_unique_and_links_lead_somewhere(pages, kind):
    elements = Reader(pages[kind]).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in elements if tag == "a" and a["href"].startswith("#")}
    assert targets <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_headings_descend_one_by_one(pages, kind):
    levels = [int(tag[1]) for tag, _ in Reader(pages[kind]).elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_the_answer_comes_first_and_everything_follows_in_order(pages, verdicts):
    text = read_text(pages["no_go"])
    verdict = verdicts["no_go"]
    first = ("NO-GO ✗", "In short", verdict.next_action, verdict.reasons[0].text, "3 of 4 metrics shown to be worse")
    places = [text.index(part) for part in first]
    assert places == sorted(places)
    sections = re.findall(r'<h2 id="(\w+)"', pages["no_go"])
    assert sections == [
        "short",
        "where",
        "reasons",
        "metrics",
        "distribution",
        "panels",
        "timeline",
        "endpoints",
        "failures",
        "health",
        "history",
        "method",
    ]
    assert "evaluator verdict cart@2 --run run-0 --policy policy.yaml" in text
    for part in (verdict.policy_hash, verdict.data_hash, "5 % over all gates", "up{version='1'}", "cart@1"):
        assert part in read_text(pages["no_go"], "")


def test_an_hour_of_twenty_endpoints_is_a_small_file(pages):
    assert len(pages["hour"].encode()) < 600_000


def test_names_stay_where_they_belong(pages):
    page = pages["hostile"]
    assert "<script" not in page
    assert "alert(2)>" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "x" * 400 not in page
    assert len(page) < 600_000
    text = "".join(Reader(page).text)
    assert HOSTILE[:40] in text
    assert "\\u202egpj.exe" in text


def test_what_a_spreadsheet_takes_for_a_formula_is_text(pages):
    tables = re.findall(r'href="data:text/csv;base64,([^"]+)"', pages["hostile"])
    rows = [row for part in tables for row in csv.reader(io.StringIO(base64.b64decode(part).decode()))]
    assert rows
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "@"))
        assert not re.match(r"[+-]\D", cell)


def test_every_figure_has_a_text_and_its_numbers(pages):
    elements = Reader(pages["no_go"]).elements
    pictures = [attributes for tag, attributes in elements if tag == "svg" and not attributes.get("aria-hidden")]
    assert len(pictures) > 10
    assert all(len(attributes["aria-label"]) > 40 for attributes in pictures)
    figures = sum(tag == "figure" for tag, _ in elements)
    assert figures == sum(tag == "figcaption" for tag, _ in elements)
    assert figures == sum("download" in attributes for tag, attributes in elements if tag == "a")


def test_without_figures_there_are_tables_and_a_word_about_it(pages):
    text = " ".join(Reader(pages["bare"]).text)
    assert "made without the numbers behind figures" in text
    assert "Timeline" not in text
    assert "p95 rose" in text
    assert "made without" not in " ".join(Reader(pages["no_go"]).text)


def test_no_data_says_why_and_what_next(pages, verdicts):
    text = " ".join(Reader(pages["no_data"]).text)
    assert "INCONCLUSIVE ?" in text
    assert "∅ no data" in text
    assert "baseline has no requests" in text


def test_several_candidates_are_named_apart(pages):
    text = " ".join(Reader(pages["three_arms"]).text)
    assert "p95, canary_b" in text
    assert "canary_b" in pages["three_arms"]


def test_an_override_and_shadow_mode_are_stamped(verdicts):
    verdict = replace(verdicts["bare"], mode="shadow", override={"by": "ann", "reason": "<b>hotfix</b>"})
    page = to_html(verdict)
    assert "Overridden: by ann, reason &lt;b&gt;hotfix&lt;/b&gt;" in page
    assert "blocks nothing" in page


def test_backticks_are_code_only_in_pairs(verdicts):
    page = to_html(replace(verdicts["bare"], next_action="run `evaluator <x>` now"))
    assert "run <code>evaluator &lt;x&gt;</code> now" in page
    assert "an ` alone" in to_html(replace(verdicts["bare"], next_action="an ` alone"))


@pytest.mark.parametrize("word", VerdictWord)
def test_every_word_has_its_mark(verdicts, word):
    page = to_html(replace(verdicts["bare"], word=word))
    assert f'<body class="{word.value}">' in page


def test_the_same_verdict_gives_the_same_page(verdicts, pages):
    assert to_html(verdicts["no_go"]) == pages["no_go"]


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_a_missing_package_is_named(verdicts, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs the package '{package}'") as error:
        FORMATS["html"](verdicts["bare"], Page())
    assert "plots" in error.value.hint


@pytest.mark.parametrize(
    "figures",
    [{"version": 1, "metrics": [{"name": "x"}]}, {"version": 1, "quantiles": [1]}, {"version": 1, "timeline": "now"}],
)
def test_figures_that_are_not_as_they_are_written_are_refused(verdicts, figures):
    with pytest.raises(InputError, match="figures of the verdict on cart@2 cannot be drawn") as error:
        to_html(replace(verdicts["bare"], figures=figures))
    assert "--figures" in error.value.hint


def test_a_page_of_a_json_with_figures_is_the_page_of_its_verdict(verdicts, pages):
    """What goes through JSON comes out the same."""
    plain = json.loads(to_json(verdicts["no_go"]))["figures"]
    assert to_html(replace(verdicts["no_go"], figures=plain)) == pages["no_go"]


def test_the_short_answer_has_no_term_of_statistics(pages):
    for kind in KINDS:
        short = pages[kind].partition('id="short"')[2].partition("</section>")[0]
        text = read_text(short.partition("<dt>Next")[0])  # a command is for who executes it
        assert "Compared" in text
        assert not re.search(r"\bCI\b|alpha|p-value|\bp\d|quantile|confidence|significan|margin", text), kind


def test_sums_count_all_that_was_compared_and_are_the_same_in_text_figure_and_table(pages, verdicts):
    """One endpoint of twenty is worse: figure, table of metrics and list of endpoints say so alike."""
    page, verdict = pages["hour"], verdicts["hour"]
    scanned = [row for row in verdict.evidence.comparisons if row.scan]
    failing = [row for row in scanned if row.status is MetricStatus.FAIL]
    assert (len(scanned), len(failing)) == (40, 1)
    text = read_text(page, "")
    worse = "shown to be worse than allowed: geometric mean of GET /endpoint/019"
    assert f"1 of 40 comparisons of endpoints {worse}" in text
    assert f"1 of 40 compared {worse}" in text
    assert "The 12 worst of 40 are drawn." in text
    assert "All 40 comparisons of 20 endpoints, worst first" in text
    assert not re.search(r"\d+ of 12\b", text.partition("Endpoints")[2].partition("checks")[0])
    metrics = page.partition('id="metrics"')[2].partition("</section>")[0].partition("<tbody role")[2]
    assert "GET /<wbr>endpoint/<wbr>019" in metrics.partition("</tr>")[0]  # in the first row of the table as well


def test_the_judges_sentence_stands_twice_at_most(pages, verdicts):
    """Among the reasons, and as the title of its figure."""
    for kind in ("no_go", "inconclusive", "hour"):
        text = read_text(pages[kind])
        for reason in verdicts[kind].reasons:
            assert 1 <= text.count(reason.text) <= 2, (kind, reason.text)


def test_words_are_broken_at_signs_only(pages):
    """What a narrow column would break: `latency_quan tile`."""
    assert "latency_<wbr>quantile" in pages["no_go"]
    assert "through<wbr>" not in pages["no_go"]
    long = "x" * 100
    pieces = str(FILTERS["breakable"](f"GET /cart/{long}?id=1.25")).split("<wbr>")
    assert "".join(pieces) == f"GET /cart/{long}?id=1.25"
    assert max(map(len, pieces)) == 24
    assert pieces[:2] == ["GET /", "cart/"]
    assert pieces[-1] == "1.25"
    assert FILTERS["tied"]("+0.04 pp (min −0.1 … +0.2)").split(" ") == [
        "+0.04\N{NO-BREAK SPACE}pp",
        "(min\N{NO-BREAK SPACE}−0.1\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}+0.2)",
    ]


LIFE = {
    "read_at": "2026-03-02T08:00:00+00:00",
    "state": f"rolled back at 2026-03-02 07:00 UTC by ann: {HOSTILE}",
    "hidden_events": 3,
    "events": [{"at": "2026-03-02T07:00:00+00:00", "what": "promotion approved", "by": HOSTILE, "why": HOSTILE}],
    "notes": [{"at": "2026-03-02T07:30:00+00:00", "by": "bob", "text": f"first line\n{HOSTILE}"}],
}


def test_what_became_of_the_release_is_in_the_report(verdicts):
    verdict = verdicts["no_go"]
    page = to_html(replace(verdict, figures={**verdict.figures, "life": LIFE}))
    assert not Reader(page).wrong
    assert "<script" not in page
    happened = page.partition('id="life"')[2].partition("</section>")[0]
    text = read_text(happened)
    for part in ("promotion approved", "2026-03-02 07:00 UTC", "3 earlier events", "bob", "first line"):
        assert part in text
    assert "rolled back at 2026-03-02 07:00 UTC by ann" in page.partition("<main>")[0]
    nothing = {**LIFE, "state": "", "events": [], "notes": [], "hidden_events": 0}
    page = to_html(replace(verdict, figures={**verdict.figures, "life": nothing}))
    assert "it was neither promoted nor held nor rolled back" in page
    with pytest.raises(InputError, match="cannot be drawn"):
        to_html(replace(verdict, figures={**verdict.figures, "life": {"state": 1}}))


def test_a_panel_shows_when_a_change_began_and_a_row_why_it_is_open():
    verdict = find_verdict("no_go")
    assert "each window of" in to_html(verdict)
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p95")
    beyond = replace(row, status=MetricStatus.INCONCLUSIVE, p_value=0.028, p_value_adjusted=0.23)
    shown = replace(verdict, evidence=replace(verdict.evidence, comparisons=(beyond,)))
    assert "by itself, but not after allowing for the other gates" in to_html(shown)
