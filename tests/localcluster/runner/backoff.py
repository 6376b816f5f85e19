"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass

DOUBLINGS_CAP = 30  # a kubelet waits 10 s first and 300 s at most


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay in seconds after the next failure, and when it was last changed; no delay: nothing failed yet."""

    delay_seconds: float = 0.0
    changed_at: float = 0.0

    def after_failure(self, base_seconds: float, failed_at: float) -> Backoff:
        """The delay doubled, up to 30 times the base; from the base again after a quiet time of twice that.

        Source: k8s.io/client-go/util/flowcontrol/backoff.go.
        """
        longest = base_seconds * DOUBLINGS_CAP
        expired = failed_at - self.changed_at > 2 * longest
        delay = base_seconds if expired or not self.delay_seconds else min(2 * self.delay_seconds, longest)
        return Backoff(delay, failed_at)

    def wait_until(self, base_seconds: float, failed_at: float) -> float:
        """When to try again after a failure at `failed_at`, in seconds since the epoch: at once after the first one."""
        if failed_at - self.changed_at > 2 * base_seconds * DOUBLINGS_CAP:
            return failed_at
        return failed_at + self.delay_seconds


NO_BACKOFF = Backoff()


def format_duration(seconds: float) -> str:
    """Seconds as Go prints a duration: 500ms, 10s, 2m40s, 5m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
