"""What training chose of postprocessing, as the bundle keeps it, and how to say it."""

import json
from pathlib import Path
from typing import Any

# In the bundle: the labels of which only the largest component is kept, and why.
LARGEST_COMPONENT = Path("docs/largest_component.json")
EVERYTHING = "*"  # stands for all labels together


def postprocessing_of(bundle: Path) -> str:
    """Returns one or two sentences on a trained bundle's largest components; nothing where it has no such file."""
    path = bundle / LARGEST_COMPONENT
    return sentence_on(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""


def sentence_on(choice: dict[str, Any]) -> str:
    """Returns what was chosen and by what, from what `LargestComponentChoice.choose` returned."""
    chosen, evidence = choice["chosen"], choice.get("candidates")
    names = "all labels together" if chosen == [EVERYTHING] else " and of ".join(chosen)
    what = f"Only the largest component of {names} is kept" if chosen else "All components of all labels are kept"
    if evidence is None:
        return f"{what}, as bundle.yaml says."
    if not chosen:
        return f"{what}: to drop any was not worth it on {choice['cases']} validation cases."
    gains = ", ".join(f"{evidence[name]['dice_before']:.3f} to {evidence[name]['dice_after']:.3f}" for name in chosen)
    return f"{what}: on {choice['cases']} validation cases, which chose it, the mean Dice rose from {gains}."
