"""The model card of a bundle: what it is, and what the gate found."""

from __future__ import annotations

from .quantise import RECIPES
from .trial import Evidence, Trial


def card(trial: Trial, evidence: Evidence) -> str:
    bundle, found, recipe = trial.bundle, trial.comparison, RECIPES[trial.recipe]
    where = f"held-out texts of {evidence.data}" if evidence.data else "strings of random pieces (no data was given)"
    safe = "any CPU" if recipe.safe_on == "any" else "CPUs with 8-bit dot products (VNNI, AMX, ARM dotprod) only"
    lines = [
        f"# {', '.join(bundle.labels)}",
        "",
        f"A text classifier with {len(bundle.labels)} labels, exported by jirgee with the recipe `{bundle.recipe}` "
        f"({recipe.about}). Safe on {safe}: {recipe.why}.",
        "",
        "```",
        "jirgee score BUNDLE texts.csv -o scored.csv",
        "```",
        "",
        f"Compared with its checkpoint in PyTorch fp32 on {found.texts} {where}:",
        "",
        f"- labels that differ: {found.flips}",
        f"- change of a probability: mean {found.mean_change:.4f}, largest {found.max_change:.4f}",
        f"- change of a probability by batch-mates, padding or threads: at most {found.batch_effect:.4f} seen",
    ]
    for name, pair in (("accuracy", found.accuracy), ("macro F1", found.macro_f1), ("calibration error", found.ece)):
        if pair:
            lines.append(f"- {name}: {pair[0]:.4f} -> {pair[1]:.4f}")
    lines += [f"- recall of {label}: {before:.4f} -> {after:.4f}" for label, (before, after) in found.recall.items()]
    return "\n".join(lines) + "\n"
