"""The report on a training in a real browser: what a person reads, clicks and prints."""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from detr_jax.evaluation.run_report import write_run_report
from tests.evaluation.made_up_run import COMMAND, ODD, MadeUpRun

MOST_SCROLL = "document.documentElement.scrollWidth - innerWidth"


def write(folder: Path, **options) -> Path:
    run = MadeUpRun(folder / "run", **options)
    for row in run.ground_truth["images"]:
        row["file_name"] = f"{ODD[0]}{row['file_name']}" if "names" in options else row["file_name"]
    return write_run_report(run.folder, run.open_split, "runs/cells").page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """300 classes, some of whose names are markup, of a run that was killed."""
    return write(tmp_path_factory.mktemp("odd"), names=ODD, classes=300, finished=False)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A run that has not been evaluated."""
    return write(tmp_path_factory.mktemp("unseen"), steps=())


def test_a_person_reads_what_became_of_it(finished, open_page):
    page = open_page(finished)
    assert (
        page.locator("h1").inner_text() == "Training runs/cells" and page.locator("#state").inner_text() == "Finished"
    )
    lead = page.locator("#lead").inner_text()
    assert "A detector of 4 classes" in lead and "for 300 steps" in lead and "one CPU with 2 cores" in lead
    assert page.locator("#headline b").first.inner_text() in lead
    assert page.locator("#panels svg[role=img]").count() == 5 and page.locator("#panels path").count() > 6
    assert page.locator("#class-table tbody tr").count() == 4
    assert page.locator("#galleries .picture").count() > 4
    assert "python -m detr_jax.predict --checkpoint=runs/cells" in page.locator("#commands").inner_text()
    assert page.locator("#last-command pre").inner_text() == COMMAND
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")


def test_every_link_leads_to_a_section_that_is_there(finished, unseen, open_page):
    for path in (finished, unseen):
        page = open_page(path)
        for link in page.locator("nav a:visible").all():
            assert page.locator(link.get_attribute("href")).is_visible()
    assert not page.locator("#classes").is_visible() and not page.locator("nav a[href='#classes']").is_visible()
    assert "has not been evaluated yet" in page.locator("#lead").inner_text()


def test_the_worst_class_stands_first_until_a_heading_is_chosen(finished, open_page):
    page = open_page(finished)
    values = [float(cell.inner_text()) for cell in page.locator("#class-table tbody td:nth-child(2)").all()]
    assert values == sorted(values)
    page.locator("#class-table .sort").filter(has_text=re.compile("^AP50$")).click()
    values = [float(cell.inner_text()) for cell in page.locator("#class-table tbody td:nth-child(3)").all()]
    assert values == sorted(values, reverse=True)


def test_an_image_opens_large_by_key_and_closes(finished, open_page):
    page = open_page(finished)
    page.locator("#galleries .picture").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    title = page.locator("#viewer-text").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-text").inner_text() != title
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()


def test_settings_and_evaluations_unfold(finished, open_page):
    page = open_page(finished)
    for name, rows in (("#all-settings", 70), ("#evaluations", 3)):
        page.locator(f"{name} summary").focus()
        page.keyboard.press("Enter")
        assert page.locator(f"{name} tbody tr").count() >= rows and page.locator(f"{name} table").is_visible()


def test_names_are_text_and_never_markup(odd, open_page):
    page = open_page(odd)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    text = page.locator("body").inner_text()
    for name in ODD[:3]:
        assert name in text, name
    assert (
        page.locator("img:not([src^='data:'])").count() == 0 and page.locator("#state").inner_text() == "Not finished"
    )
    assert page.locator("#class-table tbody tr").count() == 300
    assert COMMAND in page.locator("#commands").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["finished", "odd", "unseen"])
def test_no_serious_fault_of_accessibility(request, open_page, which, scheme):
    page = open_page(request.getfixturevalue(which), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    for state in ("page", "viewer"):
        if state == "viewer" and which != "unseen":
            page.locator("#galleries .picture").first.click()
        found = [row for row in Axe().run(page).response["violations"] if row["impact"] in ("serious", "critical")]
        assert found == [], (state, [(row["id"], [node["html"][:200] for node in row["nodes"][:3]]) for row in found])


@pytest.mark.parametrize("which", ["finished", "odd", "unseen"])
def test_it_fits_a_phone(request, open_page, which):
    page = open_page(request.getfixturevalue(which), viewport={"width": 390, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate(MOST_SCROLL) <= 0
    if which != "unseen":
        page.locator("#galleries .picture").first.click()
        assert page.evaluate(MOST_SCROLL) <= 0


def test_it_prints(finished, open_page):
    page = open_page(finished, color_scheme="dark")
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
