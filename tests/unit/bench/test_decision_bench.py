"""What is timed are whole decisions about prompts of one size."""

from __future__ import annotations

from decision_bench.decisions import FLEET, PROMPT_CHARACTERS, artifacts, bodies, decision_us, prompts
from flotilla_router.request import parse_request
from flotilla_router.text import prompt_text


def test_prompts_are_prose_of_one_size_and_reach_the_scorer_whole() -> None:
    """1,024 characters each, and all of them come through the request."""
    texts = prompts()

    assert {len(text) for text in texts} == {PROMPT_CHARACTERS}
    assert [prompt_text(parse_request("chat", body)) for body in bodies(texts)] == texts


def test_every_artifact_orders_its_models_by_the_prompt() -> None:
    """Scores differ from prompt to prompt, so that nothing is timed that does not look at them."""
    for artifact in artifacts().values():
        scores = [artifact.judge(text) for text in prompts()[:20]]

        assert len({score.reference for score in scores}) > 10
        assert set(scores[0].ranked(0.5)) in ({"weak", "strong"}, set(FLEET))


def test_medians_are_named_for_embedder_and_scorer() -> None:
    """The figures that the budgets are about are among them."""
    assert {"hashed", "static", "static_prototypes", "static_clusters"} <= decision_us().keys()
