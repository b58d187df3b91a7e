"""A bundle's graph in ORT format, and the list of operators that a minimal build of onnxruntime must have to run it.

The format is a flatbuffer that loads without the ONNX parser. Its graph is optimised as far as that does not depend on
the machine; the list is what onnxruntime's build script takes by ``--include_ops_by_config``.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnxruntime
from onnxruntime.tools.ort_format_model import create_config_from_models

from jirgee.bundle import Bundle, check_free, replace
from jirgee.manifest import MODEL

CONFIG_SUFFIX = ".required_operators.config"


def write_ort(bundle: Bundle, out: Path, overwrite: bool = False) -> str:
    """Write ``out`` and, beside it, ``NAME.required_operators.config``; returns a line about them."""
    config = out.with_suffix(CONFIG_SUFFIX)
    for path in (out, config):
        check_free(path, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        model, listed = Path(work) / "model.ort", Path(work) / "operators.config"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(model)
        # Beyond these come rewrites that fit only the machine they are made on.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(bundle.read(MODEL), options, providers=["CPUExecutionProvider"])
        logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # it tells of a temporary file
        create_config_from_models([model], listed, enable_type_reduction=False)
        lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        listed.write_text("\n".join([f"# what {out.name} needs", *lines, ""]), encoding="utf-8")
        replace(model, out)
        replace(listed, config)
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB in ORT format; its operators are in {config.name}"
