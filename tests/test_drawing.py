import numpy as np
import pytest
from PIL import Image, ImageDraw

from detr_jax import drawing

GREY = np.full((480, 640, 3), 128, np.uint8)


def test_frame_has_the_color_of_its_class_and_the_rest_is_untouched():
    drawn = drawing.draw_boxes(GREY, np.array([[100.0, 100.0, 300.0, 200.0]]), [""], [3])
    assert drawn.shape == GREY.shape and (GREY == 128).all()
    colored = (drawn != 128).any(axis=-1)
    rows, columns = np.nonzero(colored)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 199, 100, 299)
    assert (drawn[colored] == drawing.color(3)).all()
    assert not colored[110:190, 110:290].any()


def test_the_first_box_and_its_text_are_on_top():
    box = np.array([[100.0, 100.0, 300.0, 200.0]] * 2)
    both = drawing.draw_boxes(GREY, box, ["", ""], [1, 2])
    np.testing.assert_array_equal(both, drawing.draw_boxes(GREY, box[:1], [""], [1]))


@pytest.mark.parametrize("side", [32, 96, 1300])
def test_small_pictures_are_enlarged_and_large_ones_keep_their_size(side):
    image = np.zeros((side * 3 // 4, side, 3), np.uint8)
    drawn = drawing.draw_boxes(image, np.array([[2.0, 2.0, side - 2.0, side / 2]]), ["circle 0.97"], [0])
    factor = drawn.shape[0] // image.shape[0]
    assert drawn.shape == (image.shape[0] * factor, image.shape[1] * factor, 3)
    assert factor == 1 if side >= drawing.READABLE else max(drawn.shape) >= drawing.READABLE
    assert (drawn != 0).any()


def test_nothing_to_draw_gives_an_equal_copy():
    drawn = drawing.draw_boxes(GREY, np.zeros((0, 4)), [], [])
    np.testing.assert_array_equal(drawn, GREY)
    drawn[0, 0] = 0  # a copy, and one that can be written to
    assert GREY[0, 0, 0] == 128


def test_any_finite_box_can_be_drawn_and_others_are_skipped():
    boxes = np.array(
        [[-50, -50, 9999, 9999], [300, 200, 100, 50], [5, 5, 5, 5], [640, 480, 700, 500], [np.nan, 0, 9, 9]], float
    )
    drawing.draw_boxes(GREY, boxes, ["a very long name that is wider than the picture " * 5] * 5, [0, 1, 2, 90, 7])
    np.testing.assert_array_equal(drawing.draw_boxes(GREY, boxes[4:], ["x"], [0]), GREY)


@pytest.mark.parametrize("size", [(3000, 4000), (80, 100), (40, 300), (1000, 12), (10, 2000)])
def test_texts_stay_in_the_picture_and_grow_with_it(size, monkeypatch):
    """Names of any length, at boxes in every corner; the score is the last that is given up."""
    height, width = size
    written = []
    draw_text = ImageDraw.ImageDraw.text

    def note(draw, place, text, fill, font):
        written.append((text, font.size))
        x0, y0, x1, y1 = font.getbbox(text)
        assert place[0] + x0 >= 0 and place[0] + x1 <= draw.im.size[0] and place[1] + y1 <= draw.im.size[1]
        assert place[1] + y0 >= 0
        draw_text(draw, place, text, fill=fill, font=font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    corners = [
        [0, 0, 9, 9],
        [width - 9, 0, width, 9],
        [0, height - 9, 9, height],
        [width - 9, height - 9, width, height],
    ]
    texts = ["cat 0.98", "traffic light 0.64", f"{'a long name ' * 4}0.71", f"{'W' * 200} 0.55"]
    drawn = drawing.draw_boxes(np.zeros((height, width, 3), np.uint8), np.array(corners, float), texts, [0, 1, 2, 3])
    if width > 12:
        assert {text[-4:] for text, _ in written} == {"0.98", "0.64", "0.71", "0.55"}
    if min(size) >= 80:
        assert "cat 0.98" in {text for text, _ in written}
        assert all(0.016 < font_size / max(drawn.shape) < 0.04 for _, font_size in written)


def test_colors_of_the_first_classes_differ():
    colors = np.array([drawing.color(label) for label in range(24)], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e3 * np.eye(24)
    assert distances.min() > 15
    assert distances[:12, :12].min() > 60


def test_grid_places_pictures_row_by_row():
    pictures = [np.full((40 + i, 80 - 20 * i, 3), 10 * i, np.uint8) for i in range(3)]
    sheet = drawing.grid(pictures, columns=2, cell=100)
    assert sheet.shape == (2 * 100 + drawing.GAP, 2 * 100 + drawing.GAP, 3)
    assert sheet[50, 50, 0] == 0 and sheet[50, 154, 0] == 10 and sheet[154, 50, 0] == 20
    assert sheet[154, 154, 0] == 255
    with pytest.raises(ValueError):
        drawing.grid([], columns=2)


def test_save_makes_the_folder_and_leaves_no_partial_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    drawing.save(noise, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), noise)
    drawing.save(noise, tmp_path / "new" / "a.jpg")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.jpg", "a.png"]


@pytest.mark.parametrize("shape", [(1000, 1, 3), (1, 1000, 3), (1, 1, 3)])
def test_a_picture_without_room_for_any_text(shape):
    drawn = drawing.draw_boxes(np.zeros(shape, np.uint8), np.array([[0.0, 0, 1, 1]]), ["cat 0.98"], [0])
    assert drawn.any()
