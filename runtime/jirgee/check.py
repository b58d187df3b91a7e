"""``jirgee check``: does this bundle score here as it did when it was verified?

Three questions: are the files those of the export (``Bundle.load``), does this CPU multiply 8-bit integers as the
recipe needs (``int8.py``), and do the golden texts get the scores that the export wrote down (``golden.py``).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .bundle import Bundle
from .golden import Golden, score_alone
from .int8 import EXACT, probe
from .machine import describe
from .providers import choose_device, onnxruntime

# Of a probability. Between CPUs the last bits of floats differ, and 8-bit activations then round otherwise: such noise
# in every float weight of an 8-bit bundle moved its golden texts by up to 0.007.
LIMIT = 0.01


def this_machine() -> dict[str, Any]:
    """What a bundle's ``verified_on`` says of a machine."""
    return describe() | {"onnxruntime": onnxruntime().__version__, "int8_sums": probe()}


def check(path: str | os.PathLike[str], device: str = "cpu", limit: float | None = None) -> dict[str, Any]:
    """Check the bundle at ``path``; ``passed`` tells the verdict, ``problems`` why not.

    ``limit``: by how much a probability of a golden text may differ; by default LIMIT, or what batch-mates may change
    in this bundle if that is more. Raises BundleError if the bundle is not intact.
    """
    bundle = Bundle.load(path)
    limit = max(LIMIT, bundle.tolerance) if limit is None else limit
    golden = Golden.read(bundle)
    problems = []
    here = this_machine()
    if bundle.safe_on == "int8_dot" and here["int8_sums"] != EXACT:
        problems.append(
            f"8-bit sums are {here['int8_sums']} on this CPU and recipe {bundle.recipe} needs exact ones; "
            "export it again on this kind of CPU"
        )
    scores: dict[str, Any] | None = None
    if golden is None:
        problems.append("it holds no golden texts to compare scores on; export it again")
    else:
        probs = score_alone(bundle, golden.texts, choose_device(device))
        change = np.abs(probs - golden.probs)
        scores = {
            "source": golden.source,
            "texts": len(golden.texts),
            "identical": int((change == 0).all(axis=1).sum()),
            "flips": int((probs.argmax(axis=1) != golden.probs.argmax(axis=1)).sum()),
            "max_change": float(change.max()),
            "limit": limit,
        }
        if not scores["max_change"] <= limit:
            problems.append(
                f"a golden text's probability differs by {scores['max_change']:.4f} (limit {limit:g}) and "
                f"{scores['flips']} of {scores['texts']} labels change; export it again on this kind of machine"
            )
    return {
        "bundle": str(bundle.path),
        "recipe": bundle.recipe,
        "safe_on": bundle.safe_on,
        "files": len(bundle.files) + 2,
        "size_bytes": bundle.size,
        "verified_on": dict(bundle.verified_on),
        "here": here,
        "device": device,
        "golden": scores,
        "passed": not problems,
        "problems": problems,
    }


ROWS = (("CPU", "cpu"), ("architecture", "arch"), ("8-bit sums", "int8_sums"), ("onnxruntime", "onnxruntime"))


def table(found: dict[str, Any]) -> str:
    """What ``check`` found, for people."""
    then, here = found["verified_on"], found["here"]
    lines = [("", "at export", "here")]
    lines += [(name, str(then.get(key, "not told")), str(here[key])) for name, key in ROWS]
    width = max(len(value) for _, value, _ in lines)
    text = [f"{name:14}{value:{width + 3}}{now}".rstrip() for name, value, now in lines]
    text.append(
        f"{'files':14}{found['files']} of {found['files']} are those of the export ({found['size_bytes']:,} bytes)"
    )
    if scores := found["golden"]:
        text.append(
            f"{'golden texts':14}{scores['texts']} ({scores['source']}): {scores['identical']} score the same to the "
            f"last bit, the largest change of a probability is {scores['max_change']:.6f} (limit {scores['limit']:g})"
        )
        text.append(f"{'':14}{scores['flips']} labels change")
    verdict = "scores here equal those at export" if found["passed"] else "NOT TO BE TRUSTED HERE"
    return "\n".join([*text, f"{'verdict':14}{verdict}"])
