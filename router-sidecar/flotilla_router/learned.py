"""Learned routing as it runs: which artifact decides about a request, what it says, and what it has seen so far.

| the policy's strategy | its artifact is | the request is                                              |
|-----------------------|-----------------|-------------------------------------------------------------|
| none                  |                 | drawn by weight                                             |
| learned               | not loaded yet  | ranked by the previous artifact, or else drawn by weight    |
| learned               | loaded          | ranked; a canary's artifact ranks its share of the sessions |

The numbers come from artifacts, which are loaded elsewhere: nothing here needs numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from flotilla_api.snapshot import ArtifactSource, RoutingSnapshot, StrategyConfig, TrialConfig

from .decisions import Ranking
from .drift import DRIFTED_INDEX, Drift
from .strategies.scores import ClusterScores, PairScore
from .strong_ratio import StrongRatio, Verdict
from .trials import takes_part

if TYPE_CHECKING:
    from .artifact import Artifact, Remote
    from .embedders.embedding import Embedding

Role = Literal["strategy", "canary", "shadow"]
Orders = tuple[tuple[float, tuple[str, ...]], ...]
"""Orders of target names, each with its probability; they add up to 1."""
_BY_WEIGHT: Orders = ((1.0, ()),)
"""Of an artifact that has nothing to say: its requests are drawn."""
CALM_INDEX = 0.2
"""A drift is over below this: an index that hovers at the bound is not told again and again."""


class Opinion(NamedTuple):
    """What one artifact says of one prompt, in names of targets."""

    order: tuple[str, ...]
    """The preferred one first; empty: there is no operating point to prefer one by."""
    possible: Orders
    score: float
    """Of a pair the strong model's, of Cluster the best utility."""
    threshold: float | None
    """What the score was compared with; None for Cluster."""
    scores: Mapping[str, float]
    """Of a pair the strong model's; of Cluster every model's utility."""


class Judgement(NamedTuple):
    """What learned routing says of one request."""

    role: Role
    """Whose artifact decides."""
    artifact: str | None
    """Its digest; None: none is loaded."""
    opinion: Opinion | None
    """None: there is no score."""
    ranking: Ranking | None
    """None: the request is drawn by weight."""


class Endpoint(NamedTuple):
    """What scores by vectors, and who makes them."""

    artifact: str
    """Digest of the artifact."""
    remote: Remote
    name: str
    """Of the Expert: what the policy calls the embedder's model, or else the model's own id."""


class ArmFigures(NamedTuple):
    """What is measured of an artifact in use."""

    role: Role
    artifact: str
    threshold: float | None
    drift: float | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An artifact that the snapshot names, and what it is for."""

    role: Role
    source: ArtifactSource
    names: Mapping[str, str]
    """The artifact's model ids -> names of targets."""
    config: StrategyConfig | None
    """The operating point; None: there is no strategy, and a shadow is only scored."""


def wanted_by(snapshot: RoutingSnapshot) -> list[Wanted]:
    """Every artifact that a snapshot names."""
    strategy = snapshot.strategy
    trials: list[tuple[Role, TrialConfig | None]] = [("canary", snapshot.canary), ("shadow", snapshot.shadow)]
    wanted = [Wanted("strategy", strategy.artifact, strategy.models, strategy)] if strategy is not None else []
    return wanted + [Wanted(role, trial.artifact, trial.models, strategy) for role, trial in trials if trial]


def unfit(artifact: Artifact, wanted: Wanted) -> str | None:
    """Why an artifact does not go with the policy; None: it does."""
    manifest, config = artifact.manifest, wanted.config
    if config is not None and manifest.strategy != config.type:
        return f"The artifact is one for {manifest.strategy}, and the policy's strategy is {config.type}."
    known = ", ".join(manifest.models)
    unknown = sorted(wanted.names.keys() - set(manifest.models) - {manifest.embedder.options.model})
    if unknown:
        return f"The policy names the model {unknown[0]}, which the artifact lacks: it has {known}."
    if manifest.strategy != "Cluster" and not wanted.names.keys() >= set(manifest.models):
        return f"The policy has to say which of its models stand for {known}."
    if config is not None and config.targetStrongRatio is not None and not _calibration(artifact):
        return "The artifact has no calibration, which targetStrongRatio starts from: set a threshold."
    return None


def _calibration(artifact: Artifact) -> list[tuple[float, float]]:
    """Thresholds, each with the share of prompts from it on."""
    rows = artifact.manifest.calibration
    return [(row.threshold, row.strongRatio) for row in rows if row.threshold is not None]


class Prompt(NamedTuple):
    """What is asked about a request."""

    text: str
    """Clipped."""
    asked: float | None
    """The threshold that it wants."""
    vectors: Mapping[str, Embedding]
    """By the digests of the artifacts that score by them; words score where there is none."""
    session: bytes = b""
    """What its session has in common; of no use unless some sessions try a canary."""


class _Seen:
    """What has been seen of the live scores of one artifact; it outlives changes of the policy and of the role."""

    __slots__ = ("drift", "drifted", "ratio", "target")

    def __init__(self, artifact: Artifact) -> None:
        self.drift = Drift(artifact.manifest.scores)
        self.drifted = False
        self.ratio: StrongRatio | None = None
        self.target: float | None = None

    def aim(self, target: float | None, artifact: Artifact) -> None:
        """Hold this share from now on; None: there is none to hold."""
        if target == self.target:
            return
        self.ratio = None if target is None else StrongRatio(target, _calibration(artifact))
        self.target = target

    def look(self) -> None:
        """Decide whether the scores have drifted."""
        index = self.drift.index
        self.drifted = index is not None and index >= (CALM_INDEX if self.drifted else DRIFTED_INDEX)


class Arm:
    """An artifact in use, at the policy's operating point."""

    __slots__ = ("artifact", "seen", "wanted")

    def __init__(self, artifact: Artifact, wanted: Wanted, seen: _Seen) -> None:
        self.artifact = artifact
        self.wanted = wanted
        self.seen = seen

    def judge(self, prompt: Prompt, draw: float, *, counts: bool) -> Opinion | None:
        """What the artifact says of a prompt; None: its score is no number.

        draw: for a score on the threshold, uniform in [0, 1). counts: whether this is a request that it decides about.
        """
        remote, vector = self.artifact.remote, prompt.vectors.get(self.artifact.digest)
        by_vector = remote is not None and vector is not None
        scores = remote.score(vector) if remote is not None and vector is not None else self.artifact.judge(prompt.text)
        if not scores.finite:
            return None
        if counts and by_vector == (remote is not None):  # a fallback's scores are distributed in their own way
            self.seen.drift.note(scores.reference)
        if isinstance(scores, ClusterScores):
            return self._by_utility(scores)
        return self._by_threshold(scores, prompt.asked, draw, counts=counts)

    @property
    def endpoint(self) -> Endpoint | None:
        """Who makes the vectors by which it scores; None: it needs none."""
        remote = self.artifact.remote
        if remote is None:
            return None
        return Endpoint(self.artifact.digest, remote, self.wanted.names.get(remote.model, remote.model))

    def figures(self) -> ArmFigures:
        """What is measured of it."""
        config, ratio = self.wanted.config, self.seen.ratio
        threshold = ratio.threshold if ratio is not None else None if config is None else config.threshold
        return ArmFigures(self.wanted.role, self.artifact.digest, threshold, self.seen.drift.index)

    def _by_utility(self, scores: ClusterScores) -> Opinion:
        config, names = self.wanted.config, self.wanted.names
        alpha = None if config is None else config.alpha
        if alpha is None:
            return Opinion((), (), scores.reference, None, {})
        utilities = {names[model]: utility for model, utility in scores.utilities(alpha).items() if model in names}
        order = tuple([names[model] for model in scores.ranked(alpha) if model in names])
        return Opinion(order, ((1.0, order),), utilities[order[0]], None, utilities)

    def _by_threshold(self, scores: PairScore, asked: float | None, draw: float, *, counts: bool) -> Opinion:
        names, score = self.wanted.names, scores.score
        strong, weak = names[scores.strong], names[scores.weak]
        verdict = self._verdict(score, asked, draw, counts=counts)
        if verdict is None:
            return Opinion((), (), score, None, {strong: score})
        hard, easy, share = (strong, weak), (weak, strong), verdict.probability
        order = hard if verdict.strong else easy
        possible = ((share, hard), (1.0 - share, easy)) if 0.0 < share < 1.0 else ((1.0, order),)
        return Opinion(order, possible, score, verdict.threshold, {strong: score})

    def _verdict(self, score: float, asked: float | None, draw: float, *, counts: bool) -> Verdict | None:
        config, ratio = self.wanted.config, self.seen.ratio
        threshold = asked if asked is not None else None if config is None else config.threshold
        if threshold is None and ratio is not None:
            return ratio.decide(score, draw) if counts else ratio.look(score, draw)
        if threshold is None:
            return None
        return Verdict(score >= threshold, float(score >= threshold), threshold)


Report = Callable[[Role, Exception], None]
"""Is told of a mistake in an artifact's numbers or in our own code."""


class Learned:
    """The artifacts in use. A strategy whose artifact cannot be used keeps the previous one, with its own threshold."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._arms: dict[Role, Arm] = {}
        self._seen: dict[str, _Seen] = {}
        """By digest."""
        self.ranks = False
        """Whether the policy has a learned strategy."""
        self.endpoints: list[Endpoint] = []
        """Who makes vectors for the artifacts that decide."""
        self.tries = False
        """Whether sessions are told apart, because some of them try a canary's artifact."""
        self.shadows = False
        """Whether some requests are scored by a shadow's artifact."""
        self._shadow_counts = False
        """Whether the shadow's artifact is no other role's, which counts its scores then."""
        self._canary_percent = self._shadow_percent = 0.0
        self._explore_ratio = 0.0
        self.bounds: tuple[float, float] | None = None
        """Lowest and highest threshold that a request may ask for; None: it may not ask."""
        self.session_headers: tuple[bytes, ...] = ()

    def use(self, snapshot: RoutingSnapshot, loaded: Mapping[str, Artifact]) -> dict[Role, str]:
        """Use what is loaded, by digest, as the snapshot says; why roles have to do without theirs."""
        faults: dict[Role, str] = {}
        previous, self._arms = self._arms.get("strategy"), {}
        for wanted in wanted_by(snapshot):
            artifact = loaded.get(wanted.source.digest)
            fault = None if artifact is None else unfit(artifact, wanted)
            if fault is not None:
                faults[wanted.role] = fault
            if artifact is not None and fault is None:
                self._arms[wanted.role] = self._arm(artifact, wanted)
            elif wanted.role == "strategy" and previous is not None:
                self._arms["strategy"] = previous
        self._take(snapshot)
        self._seen = {digest: seen for digest, seen in self._seen.items() if digest in self.in_use()}
        return faults

    def _take(self, snapshot: RoutingSnapshot) -> None:
        strategy, canary, shadow = snapshot.strategy, snapshot.canary, snapshot.shadow
        self.ranks = strategy is not None
        self.tries = "canary" in self._arms and "strategy" in self._arms
        self.shadows = "shadow" in self._arms
        self._shadow_counts = self.digest_of("shadow") not in (self.digest_of("strategy"), self.digest_of("canary"))
        arms = [arm for role, arm in self._arms.items() if role != "shadow"]
        self.endpoints = [endpoint for arm in arms if (endpoint := arm.endpoint) is not None]
        self.bounds = None if strategy is None else strategy.header
        self._explore_ratio = 0.0 if strategy is None else strategy.exploreRatio
        self._canary_percent = 0.0 if canary is None else canary.percent
        self._shadow_percent = 0.0 if shadow is None else shadow.percent
        self.session_headers = () if canary is None else tuple([name.encode() for name in canary.sessionHeaders])

    def _arm(self, artifact: Artifact, wanted: Wanted) -> Arm:
        seen = self._seen.get(artifact.digest)
        if seen is None:
            seen = self._seen[artifact.digest] = _Seen(artifact)
        seen.aim(None if wanted.config is None else wanted.config.targetStrongRatio, artifact)
        return Arm(artifact, wanted, seen)

    def in_use(self) -> dict[str, Artifact]:
        """Artifacts of all roles, by digest."""
        return {arm.artifact.digest: arm.artifact for arm in self._arms.values()}

    def digest_of(self, role: Role) -> str | None:
        """Of the artifact that a role uses; None: none."""
        arm = self._arms.get(role)
        return None if arm is None else arm.artifact.digest

    def figures(self) -> list[ArmFigures]:
        """What is measured of the artifacts in use."""
        return [arm.figures() for arm in self._arms.values()]

    def drifted(self) -> list[Role]:
        """Roles whose scores are no longer distributed as the artifact's own. A drift ends later than it begins."""
        for seen in self._seen.values():
            seen.look()
        return [role for role, arm in self._arms.items() if arm.seen.drifted]

    @property
    def shadow_endpoint(self) -> Endpoint | None:
        """Who makes vectors for the shadow's artifact."""
        arm = self._arms.get("shadow")
        return None if arm is None else arm.endpoint

    def judge(self, prompt: Prompt, draw: Callable[[], float], *, counts: bool = True) -> Judgement:
        """What is said of a request. counts: False if it is only explained. draw: uniform in [0, 1)."""
        live, canary = self._arms.get("strategy"), self._arms.get("canary")
        if live is None:
            return Judgement("strategy", None, None, None)
        share = self._canary_percent / 100.0
        arm, other = live, None
        if canary is not None:
            tries = takes_part(canary.artifact.digest, prompt.session, self._canary_percent)
            arm, other, share = (canary, live, share) if tries else (live, canary, 1.0 - share)
        role, digest = arm.wanted.role, arm.artifact.digest
        opinion = self._ask(arm, prompt, draw(), counts=counts)
        order, possible = ((), _BY_WEIGHT) if opinion is None else (opinion.order, opinion.possible or _BY_WEIGHT)
        if other is not None:
            another = self._ask(other, prompt, 0.5, counts=False)
            possible = _mixed(share, possible, _BY_WEIGHT if another is None else another.possible or _BY_WEIGHT)
        elif not order:
            return Judgement(role, digest, opinion, None)
        reason = arm.artifact.manifest.strategy
        return Judgement(role, digest, opinion, Ranking(reason, order, possible, self._explore_ratio, draw()))

    def takes_shadow(self, draw: float) -> bool:
        """Whether a request is among those that the shadow's artifact scores. draw: uniform in [0, 1)."""
        return draw * 100.0 < self._shadow_percent

    def shadow(self, prompt: Prompt, draw: float) -> tuple[str, Opinion] | None:
        """Digest and opinion of the shadow's artifact; None: it has no score."""
        arm = self._arms.get("shadow")
        opinion = None if arm is None else self._ask(arm, prompt, draw, counts=self._shadow_counts)
        return None if arm is None or opinion is None else (arm.artifact.digest, opinion)

    def _ask(self, arm: Arm, prompt: Prompt, draw: float, *, counts: bool) -> Opinion | None:
        """What an artifact says; a mistake in it costs no request."""
        try:
            return arm.judge(prompt, draw, counts=counts)
        except Exception as error:
            self._report(arm.wanted.role, error)
            return None


def _mixed(share: float, own: Orders, other: Orders) -> Orders:
    """Orders of two artifacts, of which the first decides about `share` of the sessions."""
    return (
        *[(share * probability, order) for probability, order in own],
        *[((1.0 - share) * probability, order) for probability, order in other],
    )
