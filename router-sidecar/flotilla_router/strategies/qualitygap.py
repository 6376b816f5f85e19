"""QualityGap: a small quality gap makes a prompt easy. Source: Hybrid LLM, arXiv 2404.14618, section 3.

A scorer is trained to give p = P(quality(small) >= quality(large) - t); with the label det t is 0 and each model
answers once, with prob the answers are sampled, with trans t is chosen so that the labels differ the most.
"""

from __future__ import annotations


def score(probability: float) -> float:
    """1 - p: the paper sends a prompt to the small model where p is high; our scores are higher the harder it is."""
    return 1 - probability
