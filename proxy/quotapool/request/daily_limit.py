"""The pool's daily money limit: once it is spent, what may cost money is refused until the day turns."""

from __future__ import annotations

import time

from quotapool.openai import replies
from quotapool.openai.refusal import Refusal


class DailyLimit:
    """`spent_until`: Unix second at which the pool's day turns, while its limit is spent; 0: it is not."""

    def __init__(self) -> None:
        self.spent_until = 0.0

    def check(self, method: str, target: str) -> None:
        """Raise Refusal (429) for a request that may cost money. What only reads, deletes or cancels goes on."""
        if self.spent_until and method == "POST" and not target.partition("?")[0].rstrip("/").endswith("/cancel"):
            self.check_session()

    def check_session(self) -> None:
        """Raise Refusal (429): whatever a session does costs money."""
        left_s = self.spent_until - time.time() if self.spent_until else 0.0
        if left_s > 0:
            raise Refusal(replies.POOL_DAILY_LIMIT_REACHED, retry_after_s=left_s)
