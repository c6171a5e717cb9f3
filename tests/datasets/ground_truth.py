"""A small COCO file with what real ones have: gaps in ids, a crowd, boxes that reach outside, one without area."""

GROUND_TRUTH = {
    "info": {"note": "ünïcode, \\u escapes \u4e2d and [brackets] {in} strings"},
    "images": [
        {"id": 30, "file_name": "b.jpg", "height": 40, "width": 60},
        {"id": 10, "file_name": "ä.jpg", "height": 40, "width": 60},
        {"id": 20, "file_name": "empty.jpg", "height": 40, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 30, "category_id": 12, "bbox": [1.1, 2.2, 10.3, 20.4], "iscrowd": 0, "area": 210.12},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1, "area": 25},
        {"id": 3, "image_id": 30, "category_id": 3, "bbox": [-5, 30, 20, 20], "iscrowd": 0, "area": 400},
        {"id": 4, "image_id": 30, "category_id": 3, "bbox": [70, 5, 10, 10], "iscrowd": 0, "area": 100},
        {"id": 5, "image_id": 10, "category_id": 7, "bbox": [5, 5, 0, 10], "area": 0},
    ],
    "categories": [{"id": 12, "name": "tri"}, {"id": 3, "name": "c"}, {"id": 7, "name": "日本"}],
}
