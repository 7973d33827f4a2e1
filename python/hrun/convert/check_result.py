"""What the check of a finished file found (self_check.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Mean KL divergence, in nats, above which a person sees the difference in answers.  SmolLM2-135M:
# 0.03 and 0.06 answer like the source, 0.2 makes more mistakes, 0.6 repeats itself.
VISIBLE = 0.15


@dataclass(frozen=True)
class Check:
    """mean_divergence: KL divergence in nats.  same_top: share of positions with the same likeliest
    token.  greedy_alike: share of the file's greedy answers before the first token that the source
    would not have chosen; NaN where the file is too large to answer."""

    n_tokens: int
    mean_divergence: float
    same_top: float
    greedy_alike: float

    def line(self) -> str:
        said = (
            f"on {self.n_tokens} tokens of unseen text: mean KL divergence from the source "
            f"{self.mean_divergence:.4f}, same first choice {100 * self.same_top:.1f} %"
        )
        if math.isnan(self.greedy_alike):
            return said
        return f"{said}, {100 * self.greedy_alike:.0f} % of greedy answers alike"

    def exceeds(self, bound: float) -> bool:
        """Does a value exceed the bound?  NaN exceeds every bound."""
        return not self.mean_divergence <= bound
