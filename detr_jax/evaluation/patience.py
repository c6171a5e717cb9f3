"""Early stopping: a run ends when AP has not risen for so many evaluations."""

from collections.abc import Mapping


class Patience:
    """Remembers the AP of every evaluation of a run.

    Args:
      evaluations: how many in a row may stay below the highest AP before them; 0: any number.
      scores: AP of earlier evaluations by step.
    """

    def __init__(self, evaluations: int, scores: Mapping[int, float]):
        self._most, self._scores = evaluations, dict(scores)

    def add(self, step: int, score: float) -> None:
        """Adds the AP after a step."""
        self._scores[step] = score

    @property
    def best_step(self) -> int:
        """The step with the highest AP; the first, of equals, and 0 before there is any AP."""
        return max(sorted(self._scores), key=lambda step: self._scores[step], default=0)

    @property
    def over(self) -> bool:
        """Whether the run should end."""
        since = sum(step > self.best_step for step in self._scores)
        return 0 < self._most <= since

    def describe(self) -> str:
        """Why it ends."""
        best = self.best_step
        return (
            f"AP has not risen in the last {self._most} evaluations (train.patience): {self._scores[best]:.4f} at step "
            f"{best} is the best"
        )
