"""Texts of models, files and people show as text, wherever they stand."""

from __future__ import annotations

import payloads
import pytest

WORST = [
    "<script>document.title='taken'</script>",
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    "]]></svg><script>1</script>",
    "<!--<script>",
    "--></style>",
    "javascript:alert(1)",
    "![x](y) [a](javascript:1) **b** `c`",
    "{{7*7}} ${7*7} <%= 7 %> {x} %s",
    "\x1b[31mred\x1b[0m \x1b]8;;http://x\x1b\\",
    "user\u202etxt.exe \u2066a\u2069 \u200f",
    "&lt;b&gt; &amp; &#x3c;",
    '" onmouseover="document.title=1',
    "a\u0000b\ufffe",
    "long " * 60,
    "unbroken" * 40,
    "\u05e9\u05dc\u05d5\u05dd \u4e2d\u6587 \U0001f600",
]
TOGETHER = [" ".join(WORST[start::4]) for start in range(4)]


def taken_over(text: str) -> payloads.Payload:
    """The square page, with a text in every place that has one."""
    payload = payloads.square(columns=("clean", "changed"))
    payload["title"] = text
    payload["facts"] = [["model", text]]
    payload["notes"] = [text]
    payload["pictures"][0]["label"] = payload["panels"][0]["label"] = text
    payload["objects"][0]["name"] = text
    for column in payload["columns"]:
        column["title"] = text
        column["lens"]["vocabulary"] = [text] * 3
        for word in column["words"]:
            word["text"] = text
        column["words"][0]["why"] = text
        for quantity in column["quantities"].values():
            quantity["missing"] = text
    return payload


ELEMENTS = "document.querySelectorAll('*').length"


@pytest.mark.parametrize("text", TOGETHER, ids=range(len(TOGETHER)))
def test_texts_in_a_page_make_no_elements_and_show(show, text):
    counts = []
    for shown in ("harmless", text):
        reader = show(taken_over(shown), "#show=objects,sinks,lens")
        reader.word(7).click()
        reader.point_at(5)
        reader.settled()
        counts.append(reader.page.evaluate(ELEMENTS))
    assert counts[0] == counts[1]
    assert reader.page.title().startswith(text.split()[0])
    assert reader.page.locator("#view script, #view img, #view style, #view svg, #view a").count() == 0
    assert reader.word(7).locator("bdi").text_content() == text
    assert reader.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
