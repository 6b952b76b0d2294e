"""index.html of a report in browsers: tables that sort, pictures that open, nothing asked, no barrier."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
from axe import barriers
from living import within

from nnsight_vlm.report import page_tables, write_report

PARTS = ["object_score", "patching_map"]
ROWS = 40
MEANS = "#table-patching_map"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of two parts on two scenes, in short tables: the search for barriers looks at each cell."""
    options = {"scenes": 2, "section_images": 2, "max_new_tokens": 16, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_tables, "MOST_MEANS", ROWS)
        return write_report(tmp_path_factory.mktemp("report"), only=PARTS, **options).folder


HOSTILE = "<img src=x onerror=window.pwned=1>.png"
QUERY = "describe </script><script>window.pwned=1</script> <b>image</b> & ![x](http://x) `y` ."


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose query and whose picture's name would be carried out if they were markup."""
    place = tmp_path_factory.mktemp("hostile")
    tiny.save(place / "model")
    (place / "pictures").mkdir()
    tiny.picture(0, (24, 20)).save(place / "pictures" / HOSTILE)
    given = {"model": str(place / "model"), "images": str(place / "pictures"), "query": QUERY}
    return write_report(place / "out", only=["attention_share"], max_new_tokens=4, progress=False, **given).folder


@pytest.fixture
def opened(show, folder):
    """Opens the page."""
    return lambda fragment="", **options: show((folder / "index.html").as_uri() + fragment, **options)


def looked_into(page, number=0):
    """A picture's page, drawn: frames that are not seen are not."""
    page.locator("iframe").nth(number).scroll_into_view_if_needed()
    frame = page.frame_locator("iframe").nth(number)
    frame.locator("html[data-ready=true]").wait_for(state="attached")
    return frame


def selected(frame):
    return frame.locator("[data-word][aria-selected=true]").inner_text()


def cells(page, column):
    """The values of a column as they are shown now, with all digits."""
    found = page.evaluate(
        "([table, column]) => [...document.querySelector(table).tBodies[0].rows]"
        ".map(row => row.cells[column].dataset.value ?? row.cells[column].textContent)",
        [MEANS, column],
    )
    return [float(each.replace("∞", "inf") or "nan") for each in found]


ARROW = "each => getComputedStyle(each, '::after').content.replaceAll('\"', '')"


def test_headings_sort_up_down_and_back_with_pointer_and_keys(opened, folder):
    page = opened("#frame-patching_map").page
    frame = pd.read_parquet(folder / "frames" / "patching_map.parquet").head(ROWS)
    column = list(frame.columns).index("mean")
    heading = page.locator(f"{MEANS} th").nth(column)
    button = heading.get_by_role("button")
    assert cells(page, column) == frame["mean"].tolist() and button.evaluate(ARROW) == "\u2195"
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending" and button.evaluate(ARROW) == "\u25b2"
    assert page.get_by_role("status").inner_text() == "Sorted by mean, ascending."
    np.testing.assert_array_equal(cells(page, column), np.sort(frame["mean"]))
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending" and button.evaluate(ARROW) == "\u25bc"
    np.testing.assert_array_equal(cells(page, column), np.sort(frame["mean"])[::-1])
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "none"
    assert cells(page, column) == frame["mean"].tolist()


def test_texts_sort_too_and_only_one_column_says_so(opened, folder):
    page = opened("#frame-patching_map").page
    frame = pd.read_parquet(folder / "frames" / "patching_map.parquet").head(ROWS)
    for name in ("mean", "group"):
        page.locator(f"{MEANS} th").nth(list(frame.columns).index(name)).get_by_role("button").click()
    shown = page.locator(f"{MEANS} tbody td:nth-child({list(frame.columns).index('group') + 1})").all_inner_texts()
    assert shown == sorted(frame["group"])
    assert page.locator(f"{MEANS} th[aria-sort=ascending]").count() == 1


def test_a_link_into_what_is_folded_unfolds_it(opened):
    page = opened().page
    assert not page.locator(MEANS).is_visible()
    page.locator("#patching_map").get_by_role("link").click()
    page.locator(MEANS).wait_for(state="visible")
    assert page.locator("#frame-patching_map").evaluate("each => each.getBoundingClientRect().top < innerHeight")


def test_two_pictures_are_opened_and_do_not_know_of_each_other(opened):
    page = opened("#pictures").page
    assert page.locator("iframe").count() == 0
    for number in range(2):
        page.locator("details.picture > summary").nth(number).press("Enter")
    one, other = (looked_into(page, number) for number in range(2))
    kept = selected(other)
    words = one.locator("[data-word].generated")
    words.nth(2).click()
    assert selected(one) == words.nth(2).inner_text()
    page.keyboard.press("Escape")
    assert one.locator("[data-word][aria-selected=true]").count() == 0
    assert selected(other) == kept
    assert page.url.endswith("#pictures")
    page.locator("details.picture > summary").first.click()
    page.locator("details.picture > summary").first.click()
    assert page.locator("iframe").count() == 2


def test_a_link_to_a_picture_opens_it_in_the_report_as_it_was(opened, show):
    page = opened("#pictures").page
    page.locator("details.picture > summary").nth(1).click()
    frame = looked_into(page)
    words = frame.locator("[data-word].generated")
    words.nth(2).click()
    frame.locator("#copy").click()
    link = frame.locator("#link").input_value()
    assert "index.html#picture-1&" in link
    other = show(link).page
    assert other.locator("details.picture[open]").get_attribute("id") == "picture-1"
    frame = looked_into(other)
    assert selected(frame) == words.nth(2).inner_text() != words.nth(3).inner_text()
    place = words.nth(3).get_attribute("data-word")
    other.evaluate("to => { location.hash = to }", f"#picture-1&w={place}")  # an open picture shows what is asked now
    looked_into(other).locator(f'[data-word="{place}"][aria-selected=true]').wait_for()
    assert other.locator("iframe").count() == 1


def test_a_picture_is_as_high_as_what_is_in_it(opened):
    page = opened("#pictures").page
    page.locator("details.picture > summary").first.click()
    frame = looked_into(page)
    page.wait_for_function("document.querySelector('iframe').style.height !== ''")
    inside = frame.locator("body").evaluate("body => body.getBoundingClientRect().height")
    assert abs(page.locator("iframe").bounding_box()["height"] - inside) < 60
    html = frame.locator("html")
    assert within(5, lambda: html.evaluate("html => html.scrollHeight - innerHeight") <= 0)  # no second scroll bar


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_is_no_barrier_and_nothing_sticks_out(opened, scheme, width):
    reader = opened(scheme=scheme, width=width)
    reader.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    looked_into(reader.page, 1)
    assert barriers(reader.page) == []
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width


def test_tab_leads_first_to_the_link_past_the_contents(opened):
    page = opened().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#claims")


def test_texts_of_others_are_texts(show, hostile):
    page = show((hostile / "index.html").as_uri()).page
    assert QUERY in page.locator("header").inner_text()
    assert HOSTILE in page.locator("details.picture > summary").inner_text()
    page.locator("details.picture > summary").click()
    looked_into(page)
    assert page.evaluate("window.pwned ?? null") is None and page.locator("header b").count() == 0
