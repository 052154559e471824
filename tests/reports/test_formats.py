"""Every format against the parser of its readers, and against names that try to break out of it."""

import dataclasses
import json
import re
import shlex
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from lxml import etree
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from evaluator.metrics.response_size import ResponseSize
from evaluator.records import (
    Effect,
    FailureKind,
    Fault,
    FaultOnset,
    FaultPlace,
    Finding,
    Level,
    MetricStatus,
    Reason,
    Release,
    Service,
    Slice,
)
from evaluator.reports import BESIDE, FORMATS, Page, from_json, to_json
from evaluator.reports.base import shorten
from evaluator.reports.gitlab import write_number
from evaluator.reports.markdown import MAX_BYTES, escape, escape_but_commands, to_markdown
from evaluator.wording import write_command

HERE = Path(__file__).parent
GOLDEN = {"markdown": "md", "junit": "xml", "github": "github", "gitlab": "openmetrics", "gitlab-load": "json"}
KINDS = ["go", "no_go", "inconclusive", "no_data", "hostile", "three_arms"]
XSD = etree.XMLSchema(etree.parse(HERE.parent / "data" / "junit-10.xsd"))
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)> &amp; <!-- \" ' -->",
    "markdown": "[x](http://evil.example) ![i](http://evil.example) **b** _i_ ~~s~~ `code` # h $x$ <http://evil.example>",
    "markdown blocks": "a\n\n# heading\n\n- item\n\n```\nfence\n",
    "list": "- item",
    "number": "1. item",
    "rule": "---",
    "quote": "> quote",
    "heading": "# heading",
    "link definition": "[a]: http://evil.example",
    "bare links": "see https://evil.example or www.evil.example",
    "table": "| a | `b` | \\",
    "backslash": "ends in \\",
    "xml": "]]></failure></testcase><testcase name='x'/>&#0;&bad; \x00\x01\ufffe\uffff",
    "formula": "=cmd|'/c calc'!A1",
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "turned round": "\u202egnp.exe\u2066 \u200b",
    "lines": "a\nb\r\n::error::owned\n\u2028c\u0085d",
    "github command": "::error::owned",
    "old github command": "x ##[error]owned ##vso[task.setvariable]owned",
    "github output": "x\nEOF\nverdict=go\nverdict<<EOF\ngo",
    "percent": "%0A::error::owned %25",
    "openmetrics": '"} 1\n# EOF\nevil{a="',
    "comment": "GET /#fragment",
    "shell": 'it\'s "$(reboot)" `reboot`',
    "surrogate": "alone \ud800",
    "mention": "@everyone (@here)",
    "long": "GET /" + "x" * 100_000,
    "many words": "ab " * 34_000,
    "long and wide": "\U000e0041" * 10_000,
}


def entitle(verdict, text):
    """The same verdict with this text wherever text can come from outside."""
    rows = []
    for row in verdict.evidence.comparisons:
        rule = dataclasses.replace(row.rule, slice=Slice(text) if row.rule.slice.endpoint else row.rule.slice)
        rows.append(dataclasses.replace(row, rule=rule, arm=text))
    custom = dataclasses.replace(
        rows[0], rule=dataclasses.replace(rows[0].rule, name=text, metric=ResponseSize()), reason=text
    )
    silent = dataclasses.replace(custom, no_data=f"no data: {text}", status=MetricStatus.NO_DATA, effect=None)
    findings = (
        Finding("clock", Level.FAIL, f"{text} differs", remedy=text),
        Finding(text, Level.WARN, "x"),
        Finding("overlap", Level.OK, "fine"),
    )
    evidence = dataclasses.replace(
        verdict.evidence,
        comparisons=(*rows, silent),
        findings=findings,
        arms=tuple(dataclasses.replace(arm, name=text) for arm in verdict.evidence.arms),
    )
    return dataclasses.replace(
        verdict,
        release=Release(text, (Service(text, text, text),)),
        reasons=(Reason("regression", text or "x", text, text, text), Reason("limit", f"{text} rose 41 %", slice=text)),
        next_action=text,
        evidence=evidence,
        faults=(
            Fault(
                text,
                "failures",
                endpoints=FaultPlace("some", (text, text), 5, others_fine=True),
                instances=FaultPlace("some", (text,), 4),
                onset=FaultOnset("start"),
                requests=200,
                baseline=0.001,
                candidate=0.05,
                kinds=(FailureKind(-1, text, 10), FailureKind(503, text, 5)),
            ),
        ),
        override={text: text},
        evaluator_version=text,
        policy_hash=text,
    )


@pytest.fixture(params=HOSTILE)
def pair(request, verdicts):
    """A verdict full of a hostile text, and one full of a harmless text."""
    return entitle(verdicts["no_go"], HOSTILE[request.param]), entitle(verdicts["no_go"], "plain")


def write(verdict, name):
    return FORMATS[name](verdict, Page())


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_as_agreed(verdicts, kind, name):
    text = (HERE / "golden" / f"{kind}.{GOLDEN[name]}").read_text(encoding="utf-8")
    assert write(verdicts[kind], name) + "\n" == text


def test_empty_names_break_nothing(verdicts):
    verdict = entitle(verdicts["no_go"], "")
    for name in FORMATS:
        assert write(verdict, name)
    XSD.assertValid(etree.fromstring(write(verdict, "junit").encode()))


def test_every_format_is_tried_here():
    assert {*GOLDEN, "human", "json"} <= set(FORMATS)


# ------------------------------------------------------------------ what nobody may do


@pytest.mark.parametrize("name", [*GOLDEN, "human", "json"])
def test_no_text_moves_the_cursor_turns_the_line_or_fills_the_page(pair, name):
    text = write(pair[0], name)
    assert not {c for c in set(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    text.encode("utf-8")
    if name != "json":
        assert len(text) < 150_000


@pytest.mark.parametrize("name", [*(name for name in GOLDEN if name != "github"), "human"])
def test_no_text_becomes_a_command_in_a_log(pair, name):
    for line in write(pair[0], name).splitlines():
        assert not line.lstrip().startswith("::")
        if name == "human":
            assert not re.search(r"##\w*\[", line)


def shape(tokens):
    """The tags of a document: texts, and where they are broken, left out."""
    quiet = ("text", "text_special", "softbreak", "inline")
    types = []
    for token in tokens:
        types += [token.type] if token.type not in quiet else []
        types += shape(token.children or [])
    return types


def test_markdown_has_the_same_shape_whatever_the_names(pair):
    hostile, plain = (MARKDOWN.parse(write(verdict, "markdown")) for verdict in pair)
    assert shape(hostile) == shape(plain)
    assert {"html_block", "html_inline", "link_open", "image", "code_inline"}.isdisjoint(shape(hostile))


def test_markdown_has_no_bare_links_and_mentions(pair):
    text = write(pair[0], "markdown")
    assert not re.search(r"(?i)https?://|www\.|(?<!\w)@\w", text)


def test_markdown_shows_the_text_as_it_was():
    for text in ("a*b_c`d|e", "[x](y)", "<b> & &amp;", "-1 + 2", "1. x", "\\", "#1", "https://x.example", "$x$ ~y~"):
        inline = next(token for token in MARKDOWN.parse(f"x {escape(text)}") if token.type == "inline")
        assert "".join(child.content for child in inline.children) == f"x {text}"


def test_junit_has_the_same_shape_whatever_the_names(pair):
    hostile, plain = (etree.fromstring(write(verdict, "junit").encode()) for verdict in pair)
    assert [element.tag for element in hostile.iter()] == [element.tag for element in plain.iter()]
    XSD.assertValid(hostile)


def test_github_has_one_line_a_command_whatever_the_names(pair):
    hostile, plain = (write(verdict, "github").split("\n") for verdict in pair)
    assert len(hostile) == len(plain)
    assert all(re.fullmatch(r"::(error|warning|notice) title=[^:,\r\n]*::[^\r\n]*", line) for line in hostile)


def test_openmetrics_has_as_many_samples_whatever_the_names(pair):
    hostile, plain = (list(text_string_to_metric_families(write(verdict, "gitlab") + "\n")) for verdict in pair)
    assert [(f.name, len(f.samples)) for f in hostile] == [(f.name, len(f.samples)) for f in plain]


def test_gitlab_reads_a_name_and_a_value_from_each_line(pair):
    """It cuts a line at the first # and splits it as a shell does."""
    lines = [line for line in write(pair[0], "gitlab").splitlines() if not line.startswith("#")]
    for line in lines:
        words = shlex.split(re.sub("#.*$", "", line))
        assert len(words) == 2
        float(words[1])


def test_json_comes_back_whatever_the_names(pair):
    text = to_json(pair[0])
    assert to_json(from_json(text)) == text


# ------------------------------------------------------------------ junit


@pytest.mark.parametrize("kind", KINDS)
def test_junit_follows_the_schema_and_counts_right(verdicts, kind):
    root = etree.fromstring(write(verdicts[kind], "junit").encode())
    XSD.assertValid(root)
    for element in (root, *root):
        counts = {
            "tests": len(element.findall(".//testcase")),
            "failures": len(element.findall(".//failure")),
            "errors": len(element.findall(".//error")),
        }
        assert {key: int(element.get(key)) for key in counts} == counts
    assert [int(suite.get("skipped")) for suite in root] == [len(suite.findall(".//skipped")) for suite in root]


@pytest.mark.parametrize("kind", KINDS)
def test_junit_is_green_only_on_go(verdicts, kind):
    root = etree.fromstring(write(verdicts[kind], "junit").encode())
    assert (root.get("failures") == root.get("errors") == "0") == (kind == "go")


def test_junit_says_why_with_numbers(verdicts):
    root = etree.fromstring(write(verdicts["no_go"], "junit").encode())
    failure = root.find(".//testcase[@name='p95']/failure")
    assert "+17.8 % (+12.9 … +23)" in failure.text
    assert "margin: 10 %" in failure.text
    assert "n: 84112 + 84590" in failure.text
    skipped = etree.fromstring(write(verdicts["no_data"], "junit").encode()).find(".//testcase[@name='p95']/skipped")
    assert skipped.get("message") == "no requests on canary"
    properties = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert properties["latency_p95.margin"] == "10 %"
    assert properties["verdict"] == "no_go"


# ------------------------------------------------------------------ markdown and github


@pytest.mark.parametrize("name", ["a_b", "a*b*c", "<b>", "a`b", "a`evaluator x`b"])
def test_markdown_has_commands_as_code(name):
    command = write_command(name, "--dry-run", policy="/a_b/*.yaml")
    text = escape_but_commands(f"by *{name}*: `{command}`, or not")
    (inline,) = (token for token in MARKDOWN.parse(text) if token.type == "inline")
    assert "".join(part.content for part in inline.children).replace("`", "") == (
        f"by *{name}*: {command}, or not".replace("`", "")
    )
    if "`" not in name:
        assert [part.content for part in inline.children if part.type == "code_inline"] == [command]


def crowd(verdict, count):
    row = verdict.evidence.comparisons[2]
    rows = [dataclasses.replace(row, rule=dataclasses.replace(row.rule, name=f"{i} {'|' * 300}")) for i in range(count)]
    findings = [Finding("clock", Level.FAIL, "|" * 2000)] * count
    evidence = dataclasses.replace(verdict.evidence, comparisons=tuple(rows), findings=tuple(findings))
    return dataclasses.replace(
        verdict, evidence=evidence, reasons=tuple(Reason("health", "|" * 5000) for _ in range(count))
    )


def test_markdown_keeps_its_size_and_says_what_it_left_out(verdicts):
    text = write(crowd(verdicts["no_go"], 700), "markdown")
    assert 800_000 < len(text.encode()) <= MAX_BYTES
    assert text.startswith("## NO-GO ✗")
    assert text.endswith("*Cut here: the JSON has all of it.*")
    assert len(to_markdown(verdicts["no_go"], 600).encode()) <= 600


@pytest.mark.parametrize(("kind", "level"), [("go", "notice"), ("no_go", "error"), ("inconclusive", "warning")])
def test_annotations_are_as_loud_as_the_verdict(verdicts, kind, level):
    assert write(verdicts[kind], "github").startswith(f"::{level} title=")


def test_there_are_ten_annotations_at_most(verdicts):
    lines = write(crowd(verdicts["no_go"], 50), "github").split("\n")
    assert len(lines) == 10
    assert lines[-1] == "::error title=evaluator::91 more: the summary names them"


def read_outputs(text):
    """As the runner reads the file of outputs."""
    outputs, lines = {}, iter(text.splitlines())
    for line in lines:
        name, _, delimiter = line.partition("<<")
        assert delimiter, line
        outputs[name] = "\n".join(iter(lambda: next(lines), delimiter))
    return outputs


def test_outputs_and_summary_go_where_the_runner_wants_them(pair, tmp_path):
    summary, output = tmp_path / "summary.md", tmp_path / "output"
    output.write_text("earlier<<x\n1\nx\n")
    BESIDE["github"](pair[0], {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output)}, "report.html")
    outputs = read_outputs(output.read_text(encoding="utf-8"))
    assert list(outputs) == ["earlier", "verdict", "reason", "report"]
    assert (outputs["verdict"], outputs["report"]) == ("no_go", "report.html")
    assert summary.read_text(encoding="utf-8").startswith("## NO-GO ✗")


def test_a_step_that_judges_often_keeps_its_summary_below_the_limit(verdicts, tmp_path):
    summary = tmp_path / "summary.md"
    big = crowd(verdicts["no_go"], 700)
    for _ in range(3):
        BESIDE["github"](big, {"GITHUB_STEP_SUMMARY": str(summary)}, "")
    assert summary.stat().st_size < 1024 * 1024


def test_without_a_runner_nothing_is_written(verdicts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BESIDE["github"](verdicts["go"], {}, "")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ gitlab


def test_openmetrics_says_the_verdict_and_the_numbers(verdicts):
    text = write(verdicts["no_go"], "gitlab") + "\n"
    families = {family.name: family for family in text_string_to_metric_families(text)}
    states = {s.labels["evaluator_verdict"]: s.value for s in families["evaluator_verdict"].samples}
    assert states == {"go": 0, "no_go": 1, "inconclusive": 0}
    change = {s.labels["metric"]: s.value for s in families["evaluator_change"].samples}
    assert change == {
        "checkout_p95": 84.4,
        "failure_rate": 0.00001,
        "latency_p50": 0.006,
        "latency_p95": 0.178,
        "throughput": 0.00689,
    }
    assert text.endswith("\n# EOF\n")


def test_openmetrics_does_not_change_with_noise_order_or_release(verdicts):
    verdict = verdicts["no_go"]
    rows = [
        dataclasses.replace(row, effect=Effect(row.effect.kind, row.effect.estimate * 1.0001, -1, 1))
        for row in reversed(verdict.evidence.comparisons)
    ]
    evidence = dataclasses.replace(verdict.evidence, comparisons=tuple(rows))
    renamed = dataclasses.replace(verdict, evidence=evidence, release=Release("cart@2", (Service("cart", "1", "2"),)))
    assert write(renamed, "gitlab") == write(verdict, "gitlab")


def test_numbers_have_no_exponent():
    numbers = [
        1234.5,
        0.00012345,
        -0.0,
        None,
        float("inf"),
        float("-inf"),
        float("nan"),
        1e9,
        31.2,
        -0.000001,
        0.1 + 0.2,
    ]
    written = [write_number(value) for value in numbers]
    assert written == [
        "1230",
        "0.000123",
        "0",
        "NaN",
        "+Inf",
        "-Inf",
        "NaN",
        "1000000000",
        "31.2",
        "-0.000001",
        "0.3",
    ]


def test_the_load_report_has_what_gitlab_shows(verdicts):
    metrics = json.loads(write(verdicts["no_go"], "gitlab-load"))["metrics"]
    assert metrics["http_reqs"] == {"count": 84590, "rate": 282.0}
    assert metrics["http_req_waiting"]["p(95)"] == 139.0
    assert "p(90)" not in metrics["http_req_waiting"]
    assert metrics["checks"] == {"fails": 3, "passes": 2, "value": 0.4}


@pytest.mark.parametrize("kind", KINDS)
def test_all_checks_of_the_load_report_pass_only_on_go(verdicts, kind):
    plain = json.loads(write(verdicts[kind], "gitlab-load"))
    assert (plain["metrics"]["checks"]["fails"] == 0) == (kind == "go")
    counted = Counter()
    for check in plain["root_group"]["checks"].values():
        counted.update(passes=check["passes"], fails=check["fails"])
    assert counted["passes"] == plain["metrics"]["checks"]["passes"]


# ------------------------------------------------------------------ shortening


@pytest.mark.parametrize("most", [3, 10, 50])
def test_a_long_text_keeps_both_ends(most):
    text = "p95 of GET /" + "x" * 100 + " rose 41 %"
    short = shorten(text, most)
    assert len(short) == most
    assert short[0] == "p"
    assert shorten(short, most) == short
    assert shorten("", most) == ""
