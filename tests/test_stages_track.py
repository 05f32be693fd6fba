from pathlib import Path

from pipeline.stages.track import folds_of, out_of_fold

METRICS = {"validation": {"subgroups": {"fold": {"0": {"cases": 1, "dice": {"mean": 0.5, "low": 0.4}},
                                                 "1": {"cases": 2, "dice": {"mean": 0.75}, "recall": {"mean": 1.0}}}}}}


def write_ensemble(bundle: Path) -> None:
    for fold in (0, 1):
        for name, text in ((f"models/model.fold{fold}.pt", "w"),
                           (f"models/model.fold{fold}.pt.sha256", f"{fold}abc  model.fold{fold}.pt"),
                           (f"docs/history.fold{fold}.csv", f"iteration,epoch,train_loss\n10,1,{fold}.5\n")):
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_text(text)


def test_each_fold_has_its_curves_weights_and_out_of_fold_scores(tmp_path: Path) -> None:
    write_ensemble(tmp_path)
    folds = folds_of(tmp_path, METRICS, tags={"git_commit": "c"}, params={"epochs": "1"})
    assert folds[1].curves == {"train_loss": [(10, 1.5)]}
    assert folds[1].metrics == {"out_of_fold.dice": 0.75, "out_of_fold.recall": 1.0}
    assert folds[1].tags == {"git_commit": "c", "weights_sha256": "1abc"}
    assert folds[1].params == {"epochs": "1", "fold": "1"}
    assert folds[0].artifacts == {tmp_path / "docs/history.fold0.csv": "tables"}
    assert folds.keys() == {0, 1}


def test_a_single_training_has_no_folds_and_scores_that_were_not_asked_for_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.pt").write_text("w")
    assert folds_of(tmp_path, METRICS, tags={}, params={}) == {}
    assert out_of_fold(METRICS, 0) == {"out_of_fold.dice": 0.5}
    assert out_of_fold({"validation": {"subgroups": {}}}, 0) == {}
