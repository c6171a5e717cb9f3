"""The report at the end of a run. What goes wrong here costs the report and nothing else."""

from collections.abc import Callable

from detr_jax import hosts
from detr_jax.datasets.split import open_split
from detr_jax.evaluation.run_report import write_run_report
from detr_jax.training.workdir import Workdir


def write_final_report(place: Workdir, say: Callable[[str], None]) -> None:
    """Writes report.html and REPORT.md into the workdir, on the first host, and says so; or why it could not.

    ``say`` gets the sentence. Every host returns when this is done.
    """

    def write() -> None:
        try:
            write_run_report(place.folder, open_split, str(place.name))
        except Exception as error:  # of whatever kind: the run is done and saved
            reason = " ".join(str(error).split()) or type(error).__name__
            say(
                f"the report could not be written ({reason}); the run is complete, and this tries again: "
                f"python -m detr_jax.analyze run --workdir={place.name}"
            )
        else:
            say(f"report: {place.name}/report.html, and the same in REPORT.md")

    hosts.from_first_host(write)
