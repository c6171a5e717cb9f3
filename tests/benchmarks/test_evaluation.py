"""The benchmark of COCO's numbers."""

from detr_jax.benchmarks import evaluation


def test_evaluation_is_the_same_problem_for_both():
    result = evaluation.measure(images=30, detections=20)
    assert result["largest_difference"] < 1e-12
    truth, results = evaluation.make_results(30, 20, 0)
    assert len(results) == 600
    assert 0.05 < evaluation.evaluate_with_pycocotools(truth, results)[0] < 0.95  # neither trivial nor hopeless
