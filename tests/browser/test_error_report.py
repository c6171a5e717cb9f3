"""report.html in a real browser: what a person clicks, types and prints."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from detr_jax.evaluation import advice, errors, report
from detr_jax.evaluation.confusion import most_confused
from detr_jax.evaluation.report import Compared
from detr_jax.evaluation.tide import MEANINGS
from tests.evaluation.random_results import random_set

ODD = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "größe &amp; 猫", '"quoted" {{data}} \\']
MOST_SCROLL = "document.documentElement.scrollWidth - innerWidth"


def write(folder: Path, ground_truth: dict, results: list[dict], photos: Path | None) -> tuple[Path, errors.Analysis]:
    found = errors.analyse(ground_truth, results)
    source = Compared("instances.json", "results.json", photos)
    report.write_report(found, advice.advise(found), source, folder / "report.html")
    return folder / "report.html", found


@pytest.fixture(scope="module")
def photos(real_data, tmp_path_factory):
    """The page of a real detector on real photos."""
    ground_truth = json.loads((real_data / "coco128/annotations/instances_train2017.json").read_text())
    results = json.loads((real_data / "evaluator/yolox_nano/dets_coco128_train.json").read_text())
    folder = real_data / "coco128/images/train2017"
    return write(tmp_path_factory.mktemp("photos"), ground_truth, results, folder)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The page of a set whose names are markup, without photos."""
    ground_truth, results = random_set(1)
    for row, name in zip(ground_truth["categories"], ODD, strict=True):
        row["name"] = name
    for row in ground_truth["images"]:
        row["file_name"] = f"<b>{row['file_name']}"
    return write(tmp_path_factory.mktemp("odd"), ground_truth, results, None)


def count(page) -> str:
    return page.locator("#count").inner_text()


def test_the_summary_says_what_the_analysis_does(photos, open_page):
    path, found = photos
    page = open_page(path)
    text = page.locator("main").inner_text()
    assert f"{found.metrics.AP:.3f}" in text and f"{found.metrics.AP50:.3f}" in text and "128 images" in text
    assert [item.inner_text() for item in page.locator("#advice li").all()] == advice.advise(found)
    for button in page.locator("#costs button").all():
        cost = found.tide.costs[button.get_attribute("data-type")]
        assert f"{100 * cost:.1f}" in button.inner_text()


def test_a_type_of_error_opens_its_images_and_back_works(photos, open_page):
    path, found = photos
    page = open_page(path)
    page.locator('#costs button[data-type="Loc"]').click()
    expect(page).to_have_url(re.compile("type=Loc"))
    boxes, images = re.match(r"([\d,]+) boxes in (\d+) images", count(page)).groups()
    assert int(boxes.replace(",", "")) == found.counts_at_thresholds["Loc"] and int(images) < 128
    assert page.locator("#filter-type").input_value() == "Loc"
    assert page.evaluate("document.activeElement.textContent") == "Images"  # the keyboard goes on there
    page.locator("#filter-class").select_option(str(found.names.index("person")))
    expect(page).to_have_url(re.compile("type=Loc&class="))
    page.go_back()
    expect(page.locator("#filter-class")).to_have_value("")
    page.go_back()
    expect(page.locator("#filter-type")).to_have_value("")
    assert count(page).startswith("128 images")


@pytest.mark.parametrize("kind", MEANINGS)
def test_the_images_of_a_type_hold_all_its_errors(photos, open_page, kind):
    path, found = photos
    page = open_page(path, fragment=f"#images&type={kind}")
    boxes = int(re.match(r"([\d,]+) box(es)? in ", count(page))[1].replace(",", ""))
    assert boxes == found.counts_at_thresholds[kind]


def test_an_address_that_means_nothing_is_no_filter(photos, open_page):
    for fragment in ("#images&type=toString&class=900&cell=1.x", "#images&class=-1&cell=99.99.1", "#%E0%A4%A"):
        assert count(open_page(photos[0], fragment=fragment)).startswith("128 images")


def test_a_cell_of_the_matrix_opens_its_images(photos, open_page):
    path, found = photos
    page = open_page(path)
    cell = page.locator("#matrix [data-cell]").filter(has_text=re.compile(r"^[2-9]$")).first
    row, column = map(int, cell.get_attribute("data-cell").split("."))
    wanted = int(found.confusion_at_thresholds[row, column])
    cell.click()
    expect(page).to_have_url(re.compile("cell="))
    assert count(page).startswith(f"{wanted} boxes in ") and page.locator("#filter-cell").is_visible()
    assert page.locator("#gallery .picture").count() > 0
    page.locator("#filter-cell").click()
    expect(page).not_to_have_url(re.compile("cell="))
    assert count(page).startswith("128 images")


def test_every_cell_of_the_matrix_opens_as_many_boxes_as_it_counts(odd, open_page):
    path, found = odd
    page, matrix = open_page(path), found.confusion_at_thresholds
    assert page.locator("#matrix td[data-cell]").count() == (matrix > 0).sum()
    for row, column in zip(*matrix.nonzero(), strict=True):
        page.locator(f'#matrix [data-cell="{row}.{column}"]').click()
        expect(page).to_have_url(re.compile(f"cell={row}.{column}$"))
        expect(page.locator("#count")).to_have_text(re.compile(rf"^{matrix[row, column]} box(es)? in "))


def test_filters_by_class_and_file_name(photos, open_page):
    path, found = photos
    page = open_page(path)
    label = found.names.index("person")
    page.locator("#filter-class").select_option(str(label))
    expect(page).to_have_url(re.compile("class="))
    assert " boxes in " in count(page)
    page.locator("#clear").click()
    expect(page).not_to_have_url(re.compile("class="))
    page.locator("#filter-find").fill("000000000089")
    assert count(page).startswith("1 image") and page.locator("#gallery .picture").count() == 1
    page.locator("#filter-find").fill("nothing of that name")
    assert "No image matches" in count(page)


def test_an_image_opens_large_and_closes_by_key(photos, open_page):
    page = open_page(photos[0])
    page.locator("#gallery .picture").first.click()
    assert page.locator("#viewer").is_visible() and page.locator("#viewer image").count() == 1
    title = page.locator("#viewer-title").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() != title
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_the_matrix_is_walked_by_arrow_keys(photos, open_page):
    page = open_page(photos[0])
    page.locator("#matrix [tabindex='0']").focus()
    seen = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        seen.add(page.evaluate("document.activeElement.dataset.cell"))
    assert None not in seen and len(seen) > 2
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("cell="))


def test_a_table_is_sorted_and_photos_come_when_they_are_needed(photos, open_page):
    page = open_page(photos[0])
    heads = page.locator("#classes .sort")
    heads.filter(has_text=re.compile("^AP$")).click()
    first = page.locator("#classes tbody tr").first.inner_text()
    heads.filter(has_text=re.compile("^AP$")).click()
    assert page.locator("#classes tbody tr").first.inner_text() != first
    loaded = page.locator("#gallery image[href]").count()
    page.locator("#gallery .picture").last.scroll_into_view_if_needed()
    expect(page.locator("#gallery image[href]")).not_to_have_count(loaded)


def test_the_most_confused_classes_are_listed(photos, open_page):
    path, found = photos
    page = open_page(path)
    row, column, number = most_confused(found.confusion_at_thresholds)[0]
    first = page.locator("#pairs li").first
    assert f"{found.names[row]} → {found.names[column]} {number} of" in first.inner_text()
    first.locator("button").click()
    assert count(page).startswith(f"{number} box")


def test_all_classes_of_the_matrix_and_shares(photos, open_page):
    page = open_page(photos[0])
    assert page.locator("#matrix tbody tr").count() == 21
    page.locator("#all-classes").click()
    page.locator("#rates").click()
    assert page.locator("#matrix tbody tr").count() == 81
    assert "%" in page.locator("#matrix [data-cell]").first.inner_text()


def test_suspects_are_shown_by_kind(photos, open_page):
    path, found = photos
    page = open_page(path)
    assert page.locator("#suspects .picture").count() == len(found.suspects) < 12
    page.locator("#suspect-kind").select_option("missing")
    wanted = sum(one.kind == "missing" for one in found.suspects)
    assert page.locator("#suspects .picture").count() == wanted > 0


def test_nothing_moves_for_those_who_asked_for_it(photos, open_page):
    page = open_page(photos[0], reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_the_threshold_is_moved(photos, open_page):
    page = open_page(photos[0])
    before = page.locator("#readout").inner_text()
    page.locator("#threshold").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.locator("#readout").inner_text() != before


def test_names_are_text_and_never_markup(odd, open_page):
    page = open_page(odd[0])
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    text = page.locator("body").inner_text()
    for name in ODD:
        assert name in text, name
    page.locator("#gallery .picture").first.click()
    assert page.locator("img").count() == 0 and "<b>" in page.locator("#viewer-title").inner_text()
    assert "--images=FOLDER" in page.locator("#images-text").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["photos", "odd"])
def test_no_serious_fault_of_accessibility(request, open_page, which, scheme):
    page = open_page(request.getfixturevalue(which)[0], color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    for state in ("page", "viewer"):
        if state == "viewer":
            page.locator("#gallery .picture").first.click()
        found = [row for row in Axe().run(page).response["violations"] if row["impact"] in ("serious", "critical")]
        assert found == [], (state, [(row["id"], [node["html"][:200] for node in row["nodes"][:3]]) for row in found])


def test_the_theme_is_chosen_and_kept(photos, open_page):
    page = open_page(photos[0], color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    assert dark != light and page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


@pytest.mark.parametrize("which", ["photos", "odd"])
def test_it_fits_a_phone(request, open_page, which):
    page = open_page(request.getfixturevalue(which)[0], viewport={"width": 390, "height": 844})
    assert page.evaluate(MOST_SCROLL) <= 0
    page.locator("#gallery .picture").first.click()
    assert page.evaluate(MOST_SCROLL) <= 0


def test_it_prints(photos, open_page):
    page = open_page(photos[0], color_scheme="dark")
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
