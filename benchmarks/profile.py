"""Where a bundle's time goes: ``python -m benchmarks.profile BUNDLE [--texts 12] [--tokens 42] [--nodes]``.

Runs one batch of random tokens over and over on one thread with onnxruntime's profiler, and adds up, for each operator
(or each node), the mean of its fastest quarter: on a busy machine the slower ones measure the neighbours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from jirgee.bundle import MODEL, Bundle
from jirgee.providers import onnxruntime

REPEATS = 60


def profile(model: str | bytes, texts: int, tokens: int, repeats: int = REPEATS) -> list[tuple[str, str, float]]:
    """(node, operator, microseconds) of every node, in the order in which they run."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as work:
        options.profile_file_prefix = str(Path(work) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        ids = np.random.default_rng(0).integers(10, 500, (texts, tokens))
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
        feed = {node.name: given[node.name].astype(types[node.type]) for node in session.get_inputs()}
        for _ in range(repeats):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]].append(event["dur"])
    return [(*key, float(np.mean(sorted(found)[: max(1, len(found) // 4)]))) for key, found in times.items()]


def table(found: list[tuple[str, str, float]], tokens: int, nodes: bool = False) -> list[str]:
    """Lines, the costliest first: name, how many, share, microseconds a token. ``tokens``: of the whole batch."""
    cost: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for node, operator, micros in found:
        name = node if nodes else operator
        cost[name] += micros  # pyright: ignore[reportArgumentType]
        count[name] += 1
    total = sum(cost.values())
    lines = [f"{'node' if nodes else 'operator':44} {'count':>5} {'share':>8} {'us a token':>11}"]
    lines += [
        f"{name[-44:]:44} {count[name]:5} {micros / total:8.1%} {micros / tokens:11.3f}"
        for name, micros in cost.most_common()
    ]
    return [*lines, f"{'all':44} {sum(count.values()):5} {1:8.1%} {total / tokens:11.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of each operator in a bundle's time, on one thread.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=12, help="rows of the batch")
    parser.add_argument("--tokens", type=int, default=42, help="tokens of each row")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--nodes", action="store_true", help="one line a node, not one an operator")
    args = parser.parse_args()
    model = Bundle.load(args.bundle).read(MODEL)
    found = profile(model, args.texts, args.tokens, args.repeats)
    print("\n".join(table(found, args.texts * args.tokens, args.nodes)))


if __name__ == "__main__":
    main()
