"""Golden trajectories: the numbers that `name@version` means, pinned.

    python -m tests.golden.golden        records what has no file yet; never overwrites

A file holds the weights of the conformance model after 20 eager float32 steps, with where they were
computed. Other numbers on the same platform are another version of the component. A rule that
searches (L-BFGS) gets one batch in all steps: over changing ones it runs away, to numbers that one
unit in the last place of the first weights turns into others.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rheostat as rs
from rheostat.conformance.subject import Subject, model, train

FOLDER = Path(__file__).parent
STEPS = 20


def platform() -> dict[str, str]:
    """What the last bits of a result depend on."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mode": "eager",
    }


def trajectory(ref: str, disturbed: int | None = None) -> np.ndarray:
    """All weights after the steps, flat, in the order of the parameters; `disturbed` moves each of
    the first weights by a unit in the last place or not at all, another way for each number."""
    net, subject = model(), Subject.named(ref)
    if disturbed is not None:
        generator = torch.Generator().manual_seed(disturbed)
        for param in net.parameters():
            ulps = torch.randint(-1, 2, param.shape, generator=generator)
            param.data.mul_(1 + ulps * torch.finfo(torch.float32).eps)
    searches = any(piece.search for rule in subject.rules for piece in rule.pieces)
    train(net, subject.make(net), [0] * STEPS if searches else range(STEPS))
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()]).numpy()


def sensitivity(ref: str) -> float:
    """The largest difference that one unit in the last place of the first weights makes."""
    plain = trajectory(ref)
    return max(float(np.abs(trajectory(ref, k) - plain).max()) for k in range(8))


def load(ref: str) -> tuple[dict[str, str], np.ndarray]:
    """The platform and the weights of a golden file."""
    saved: dict[str, Any] = json.loads((FOLDER / f"{ref}.json").read_text(encoding="utf-8"))
    weights = np.frombuffer(base64.b64decode(saved["weights"]), dtype=np.float32)
    return saved["platform"], weights


def refs() -> list[str]:
    """Every version of every optimizer of ours."""
    ours = [c for c in rs.components("optimizer") if c.module.startswith("rheostat.")]
    return [component.ref for component in ours]


def main() -> None:
    """Record what is missing."""
    torch.set_num_threads(1)
    for ref in refs():
        path = FOLDER / f"{ref}.json"
        if not path.exists():
            weights = base64.b64encode(trajectory(ref).tobytes()).decode()
            path.write_text(
                json.dumps({"platform": platform(), "weights": weights}, indent=1) + "\n",
                encoding="utf-8",
            )
            print("recorded", ref)


if __name__ == "__main__":
    main()
