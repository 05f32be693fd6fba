"""What a model is for and what not, from what, and how good: the facts of the bundle's model card and of the report."""

from typing import Any

from pipeline.records.index import Index, main_split

SCORES = ("dice", "recall", "precision")


def card_facts(index: Index, plan: dict[str, Any], metrics: dict[str, Any], postprocessing: str = "") -> dict[str, str]:
    """Returns sentences by what they are about, in the order in which a card gives them.

    Args:
        index: of the data.
        plan: with the schedule's values and the training's own.
        metrics: content of metrics.json.
        postprocessing: what `postprocessing_of` says.
    """
    kind = "pictures" if index.are_pictures else f"{index.modality} scans"
    grid = f"{plan['spacing_mm']} mm" if index.has_spacing else "the pictures' own pixels, whose size is not known"
    patches = plan["batch_size"] * plan["accumulation"] * plan["processes"]
    facts = {
        "For": f"Research: {', '.join(index.labels)} in {kind} like those of its data.",
        "Not for": "Diagnosis, treatment or any other clinical use: it is not a medical device. Other modalities, "
                   "protocols, ages or diseases than the data's: it was neither trained nor measured on them.",
        "Data": f"{index.dataset} ({index.modality}), {index.counts} cases; licence: {index.licence}.",
        "Network": f"{plan['network_def']['_target_']}, patch {plan['patch_size']} at {grid}; {plan['iterations']} "
                   f"iterations of {patches} patches.",
    }
    if index.folds:
        facts["Ensemble"] = _about_ensemble(index, metrics)
    if postprocessing:
        facts["Postprocessing"] = postprocessing
    return facts | {"Scores": _about_scores(index, metrics)}


def markdown_card(experiment: str, index: Index, plan: dict[str, Any], metrics: dict[str, Any],
                  postprocessing: str = "") -> str:
    """Returns the part of a bundle's README that is about this model."""
    facts = card_facts(index, plan, metrics, postprocessing)
    lines = [f"\n## This model: {experiment}\n", *(f"- {name}: {text}" for name, text in facts.items()),
             "\n| label | Dice | recall | precision |", "|---|---|---|---|"]
    scores_of = metrics[main_split(index)]
    for label in index.labels:
        lines.append(f"| {label} | {' | '.join(_score(scores_of[name].get(label)) for name in SCORES)} |")
    return "\n".join(lines) + "\n"


def _about_ensemble(index: Index, metrics: dict[str, Any]) -> str:
    out_of_fold = metrics["validation"]
    return (f"{index.folds} networks, each trained without another fold of the patients; their mean decides, in "
            f"{index.folds} times the time of one. `--members 0` lets the first alone decide, `--members 0,2` two. Out "
            "of fold, each case segmented by the one network that did not see it: mean Dice "
            f"{_score(out_of_fold['dice']['mean'])} over {out_of_fold['cases']} cases.")


def _about_scores(index: Index, metrics: dict[str, Any]) -> str:
    split = main_split(index)
    scores_of = metrics[split]
    kind = "Test" if split == "test" else "Out of fold"
    return (f"{kind}: mean Dice {_score(scores_of['dice']['mean'])}, recall {_score(scores_of['recall']['mean'])} over "
            f"{scores_of['cases']} cases, in each scan's own space.")


def _score(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
