"""Average precision by other rules than COCO's, under names that say so."""

from detr_jax.evaluation import average_precision, coco_eval
from detr_jax.evaluation.average_precision import mean_over_existing
from detr_jax.evaluation.protocol import OtherFigures, Protocol, list_figures


def evaluate_by(rules: Protocol, ground_truth: dict, results: list[dict]) -> OtherFigures:
    """Scores boxes by these rules. What is given and what is raised is as with ``coco_eval.evaluate``."""
    truth = coco_eval.read_truth(ground_truth)
    coco_eval.check_results(ground_truth, results, "bbox")
    classes = len(truth.classes)
    scores = average_precision.score(coco_eval.match_results(truth, results, rules), classes)
    values = [scores.values(figure) for figure in list_figures(rules)]
    of_classes = [[mean_over_existing(one[..., k]) for one in values] for k in range(classes)]
    return OtherFigures(rules, [mean_over_existing(one) for one in values], of_classes)
