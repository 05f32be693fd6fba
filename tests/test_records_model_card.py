from pipeline.records.index import Index
from pipeline.records.model_card import markdown_card

INDEX = Index("liver", "data/raw/liver", "CT", "CC0", {"organ": 1, "lesion": 2}, ())
PLAN = {"network_def": {"_target_": "UNet"}, "patch_size": [8, 8, 8], "spacing_mm": [1, 1, 1], "iterations": 9,
        "batch_size": 2, "accumulation": 2, "processes": 3}


def test_the_model_card_says_where_a_score_is_not_defined() -> None:
    scores = {"mean": 0.95, "organ": 0.95, "lesion": None}
    test = {"cases": 4, "dice": scores, "recall": scores, "precision": scores}
    card = markdown_card("liver_3d", INDEX, PLAN, {"test": test})
    assert "| organ | 0.950 | 0.950 | 0.950 |" in card
    assert "| lesion | not defined | not defined | not defined |" in card
    assert "9 iterations of 12 patches" in card  # 2 in each of 2 parts in each of 3 processes
    assert "licence: CC0" in card
    assert "- For: Research: organ, lesion in CT scans like those of its data.\n- Not for: Diagnosis" in card
    assert "- Scores: Test: mean Dice 0.950, recall 0.950 over 4 cases" in card
    assert "component" not in card
    card = markdown_card("liver_3d", INDEX, PLAN, {"test": test}, "The largest component is kept.")
    assert "\n- Postprocessing: The largest component is kept.\n" in card
