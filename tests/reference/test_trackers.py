"""The real packages of trackers, which need no network: what was sent is read back."""

from detr_jax.training.trackers import check_tracker, open_tracker


def send(name: str, workdir, said: list[str]) -> None:
    """A run of two rows that is continued for a third."""
    check_tracker(name)
    tracker = open_tracker(name, workdir, {"optim.lr": 1e-4, "data.scales": (480, 512)}, said.append)
    for step in (1, 2):
        tracker.write(step, {"loss": 2.0 / step, "coco_eval_bbox/AP": 0.25})
    tracker.close()
    tracker = open_tracker(name, workdir, {"optim.lr": 1e-4, "data.scales": (480, 512)}, said.append)
    tracker.write(3, {"loss": 0.5})
    tracker.close()


def test_mlflow(tmp_path, monkeypatch):
    mlflow = __import__("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = []
    send("mlflow", tmp_path, said)
    assert said == []
    (run,) = mlflow.search_runs(experiment_names=["detr_jax"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert run.data.params["optim.lr"] == "0.0001" and run.data.metrics["coco_eval_bbox/AP"] == 0.25


def test_wandb(tmp_path, monkeypatch):
    __import__("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = []
    send("wandb", tmp_path, said)
    assert said == []
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two starts of one run
    assert b"coco_eval_bbox/AP" in b"".join(file.read_bytes() for file in files)
