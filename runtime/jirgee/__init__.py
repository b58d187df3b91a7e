"""jirgee: score short texts with a verified, quantised BERT.

    import jirgee
    scorer = jirgee.Scorer.load("bundle")
    scores = scorer.score(["..."])          # .labels, .probs, .classes

Importing does nothing heavy: onnxruntime and sentencepiece load with the first bundle.
"""

from .bundle import Bundle
from .errors import BundleError, GateError, InputError, JirgeeError, MachineError, MissingPackage
from .scorer import Scorer, Scores

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "GateError",
    "InputError",
    "JirgeeError",
    "MachineError",
    "MissingPackage",
    "Scorer",
    "Scores",
    "__version__",
]
