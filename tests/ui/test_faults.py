"""The card that says where a failing release fails."""

import re
from dataclasses import replace
from html import unescape

import pytest
from reporting import find_verdict
from stored import HOSTILE

from evaluator.records import FailureKind, Fault, FaultOnset, FaultPlace
from evaluator.ui.faults import make_fault_card


def find_card(page_text: str) -> str:
    """The card as HTML."""
    return page_text.split('aria-label="where it fails"')[1].split("</section>", maxsplit=1)[0]


def test_a_no_go_has_a_card_below_its_answer_whose_parts_are_links(page, store_path, text):
    shown = page("release", store_path, release="cart@1.6.0")
    page_text = text(shown)
    assert not shown.exception
    card = find_card(page_text)
    assert (
        page_text.index("Next:")
        < page_text.index('aria-label="where it fails"')
        < page_text.index('aria-label="metrics"')
    )
    words = unescape(re.sub("<[^>]*>", "", card))
    assert "take" in words
    assert "longer than on the baseline on all 3 instances of canary from the start" in words
    links = [unescape(address) for address in re.findall(r'href="([^"]*)"', card)]
    assert all("release=cart%401.6.0" in address and "metric=latency_p50" in address for address in links)
    assert any(address.endswith("#timeline") for address in links)
    # Of how many requests fail, and with which kinds.
    table = page_text.split('aria-label="failures"')[1].split("</table>", maxsplit=1)[0]
    assert re.search(r">\d+ of [\d,]+ \(", table)
    assert " × 503" in table


@pytest.mark.parametrize(("release", "has_card"), [("cart@1.9.0", False), ("cart@1.7.0", True)])
def test_a_go_has_no_card_and_an_open_verdict_has_one(page, store_path, text, release, has_card):
    assert ('aria-label="where it fails"' in text(page("release", store_path, release=release))) is has_card


def test_hostile_names_stay_text():
    place = FaultPlace("some", (HOSTILE,), 5, others_fine=True)
    kinds = (FailureKind(-1, HOSTILE, 3),)
    fault = Fault(HOSTILE, "failures", place, place, FaultOnset("start"), 9, baseline=0.1, candidate=0.5, kinds=kinds)
    card = make_fault_card(replace(find_verdict("no_go"), faults=(fault,)))
    assert "<img" not in card
    assert card.count("&lt;img") == 3  # endpoint, instance, kind
