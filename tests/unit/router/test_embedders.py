"""Embedders: prompts of any script in numbers, the same in training and serving."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.artifact import EmbedderName, EmbedderOptions
from flotilla_router.embedders import VECTORS, VOCABULARY, Projection, make_embedder
from flotilla_router.embedders.hashed import BASE
from flotilla_router.embedders.tokens import words_of
from flotilla_router.text import CLIP_CHARACTERS, clip

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
"""Half surrogate pairs included."""


def bucket_of(word: str, bits: int) -> int:
    """The bucket by the definition: a polynomial of the bytes, then Knuth's multiplicative hash."""
    polynomial = sum(byte * BASE**power for power, byte in enumerate(word.encode()))
    return (polynomial * 0x27D4EB2F * 0x9E3779B1 % 2**32) >> (32 - bits)


def static_arrays(**vectors: list[float]) -> dict[str, np.ndarray]:
    return {
        VOCABULARY: np.frombuffer("\n".join(vectors).encode(), np.uint8),
        VECTORS: np.array(list(vectors.values()), np.float16),
    }


TABLE = static_arrays(cat=[3, 0], dog=[0, 4])


NAMES: tuple[EmbedderName, ...] = ("Hashed", "Static", "HashedStatic")
EVERYTHING = EmbedderOptions(bits=10, grams=(2, 3), surface=True)
EMBEDDERS = [make_embedder(name, EVERYTHING, TABLE) for name in NAMES]


@given(TEXTS, st.integers(1, 20))
def test_clip_keeps_the_ends_and_is_its_own_fixed_point(text: str, times: int) -> None:
    """At most 1,024 characters, the first and the last 512 of the text; clipping them again changes nothing."""
    long = text * times
    clipped = clip(long)

    assert len(clipped) == min(len(long), 2 * CLIP_CHARACTERS)
    assert clipped[:CLIP_CHARACTERS] == long[:CLIP_CHARACTERS]
    assert clipped[-CLIP_CHARACTERS:] == long[-CLIP_CHARACTERS:]
    assert clip(clipped) == clipped


@given(TEXTS)
def test_embeddings_have_norm_one_or_zero_and_fit_their_dims(text: str) -> None:
    """Whatever the text: sorted distinct buckets, finite numbers, each part of norm 1, or 0 where it found nothing."""
    for embedder in EMBEDDERS:
        embedding = embedder.embed(text)
        part = float(embedding.values @ embedding.values)

        assert part == pytest.approx(1, abs=1e-5) or (part == 0 and not len(embedding.indices))
        assert (np.diff(embedding.indices) > 0).all()
        assert all(0 <= index < embedder.buckets for index in embedding.indices)
        assert embedder.buckets + len(embedding.dense) == embedder.dims
        assert np.isfinite(embedding.dense).all()
        assert ((embedding.dense[-10:] >= 0) & (embedding.dense[-10:] <= 1)).all()


@given(TEXTS, st.integers(1, 8), st.booleans())
def test_projection_equals_the_product_with_the_whole_vector(text: str, columns: int, surface: bool) -> None:
    """The sparse product is the dense one, for one column and for many."""
    for name in NAMES:
        embedder = make_embedder(name, EmbedderOptions(bits=6, surface=surface), TABLE)
        matrix = np.random.default_rng(0).normal(size=(embedder.dims, columns)).astype(np.float32)
        embedding = embedder.embed(text)
        whole = np.zeros(embedder.dims)
        whole[embedding.indices] = embedding.values
        whole[embedder.buckets :] = embedding.dense

        assert Projection(matrix, embedder.buckets)(embedding) == pytest.approx(whole @ matrix, abs=1e-4)
        assert Projection(matrix[:, 0], embedder.buckets)(embedding) == pytest.approx(whole @ matrix[:, 0], abs=1e-4)


def test_hashed_words_weigh_by_the_logarithm_of_their_count() -> None:
    """Twice `two` and once `one`: 1 + ln 2 and 1, over their norm, in the buckets of the definition."""
    embedder = make_embedder("Hashed", EmbedderOptions(bits=16, pairs=False))
    norm = math.hypot(1 + math.log(2), 1)
    want = sorted([(bucket_of("one", 16), 1 / norm), (bucket_of("two", 16), (1 + math.log(2)) / norm)])

    embedding = embedder.embed("Two, ONE two!")

    assert embedding.indices.tolist() == [bucket for bucket, _ in want]
    assert embedding.values.tolist() == pytest.approx([value for _, value in want])


def test_pairs_tell_the_order_of_words() -> None:
    """With pairs "dog bites man" differs from "man bites dog", without it does not; n-grams see within words."""
    pairs, single, grams = (
        make_embedder("Hashed", EmbedderOptions(pairs=pairs, grams=grams))
        for pairs, grams in ((True, ()), (False, ()), (False, (3,)))
    )

    assert pairs.embed("dog bites man").indices.tolist() != pairs.embed("man bites dog").indices.tolist()
    assert single.embed("dog bites man").indices.tolist() == single.embed("man bites dog").indices.tolist()
    assert set(grams.embed("theorem").indices) & set(grams.embed("theorems").indices)


def test_runs_of_characters_have_buckets_by_their_length() -> None:
    """Of `abcab`: the runs ab twice, bc and ca once, and abc, bca, cab; with the word, seven buckets."""
    embedder = make_embedder("Hashed", EmbedderOptions(bits=20, pairs=False, grams=(2, 3)))
    values = embedder.embed("abcab").values

    assert sorted(values / values.min()) == pytest.approx([1] * 6 + [1 + math.log(2)])
    assert len(make_embedder("Hashed", EmbedderOptions(pairs=False, grams=(2, 3))).embed("a").indices) == 1


def test_static_is_the_direction_of_the_sum_of_known_words() -> None:
    """3 for cat and 4 for dog give (0.6, 0.8); unknown words count for nothing."""
    embedder = make_embedder("Static", EmbedderOptions(), TABLE)

    assert embedder.embed("Cat and DOG").dense.tolist() == pytest.approx([0.6, 0.8])
    assert embedder.embed("neither").dense.tolist() == [0, 0]


def test_scales_stretch_the_dense_parts_only() -> None:
    """staticScale and surfaceScale multiply their parts beside the hashed one."""
    plain = make_embedder("HashedStatic", EmbedderOptions(surface=True), TABLE).embed("a cat")
    scaled = make_embedder("HashedStatic", EmbedderOptions(surface=True, staticScale=2, surfaceScale=3), TABLE).embed(
        "a cat"
    )

    assert scaled.values.tolist() == plain.values.tolist()
    assert scaled.dense[:2].tolist() == pytest.approx((plain.dense[:2] * 2).tolist())
    assert scaled.dense[2:].tolist() == pytest.approx((plain.dense[2:] * 3).tolist())


def test_surface_counts_length_and_kinds_of_bytes() -> None:
    """Of `Ab 1\n+.é`, nine bytes and two words: logarithms over ln 4097, then the shares of eight kinds."""
    surface = make_embedder("Hashed", EmbedderOptions(surface=True)).embed("Ab 1\n+.é").dense

    assert surface[0] == pytest.approx(math.log(10) / math.log(4097))
    assert surface[1] == pytest.approx(math.log(4) / math.log(4097))
    assert (surface[2:] * 9).tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 1, 2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("Don't PANIC: 42_times", ["don", "t", "panic", "42", "times"], id="ASCII"),
        pytest.param("“Straße” … ÉTÉ…", ["straße", "été"], id="letters and marks beyond ASCII"),
        pytest.param("什么是、素数?", ["什", "么", "是", "素", "数"], id="Han characters are words"),
        pytest.param("これはペン", ["こ", "れ", "は", "ペ", "ン"], id="Kana"),
        pytest.param("काम करना", ["काम", "करना"], id="Devanagari keeps its vowel signs"),
        pytest.param("소수는 무엇", ["소수는", "무엇"], id="Hangul has spaces"),
        pytest.param("ما هو العدد", ["ما", "هو", "العدد"], id="Arabic"),
        pytest.param("🙂 ok", ["🙂", "ok"], id="beyond the basic plane"),
        pytest.param("?!", [], id="marks only"),
        pytest.param("", [], id="empty"),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    """Every script has words, and none of them is cut within a character."""
    assert [word.decode() for word in words_of(text)] == words


@pytest.mark.parametrize(
    "character",
    [
        pytest.param("İ", id="two small letters"),
        pytest.param("𠀀", id="four bytes"),
        pytest.param("\x80", id="neither letter nor mark"),
    ],
)
def test_the_longest_forms_of_a_text_are_embedded(character: str) -> None:
    """A million of what takes the most room, in all embedders."""
    for embedder in EMBEDDERS:
        assert np.isfinite(embedder.embed(character * 1_000_000).dense).all()


def test_half_a_surrogate_pair_is_embedded_like_any_character() -> None:
    """JSON can hold one, so a prompt can."""
    for embedder in EMBEDDERS:
        assert np.isfinite(embedder.embed("half \ud83d pair").values).all()


def test_a_megabyte_is_embedded_as_its_ends() -> None:
    """What lies between the first and the last 512 characters changes nothing."""
    for embedder in EMBEDDERS:
        ends = "a" * 500 + " cat dog 42 " + "b" * 512
        long = ends[:512] + "the quick fox " * 80_000 + ends[-512:]

        assert [part.tolist() for part in embedder.embed(long)] == [part.tolist() for part in embedder.embed(ends)]


def test_digests_tell_embedders_apart() -> None:
    """Options and tables are in the digest; the same again gives the same."""
    several = [
        make_embedder("Hashed", EmbedderOptions()),
        make_embedder("Hashed", EmbedderOptions(bits=12)),
        make_embedder("Hashed", EmbedderOptions(grams=(3,))),
        make_embedder("Static", EmbedderOptions(), TABLE),
        make_embedder("Static", EmbedderOptions(), static_arrays(cat=[3, 0], dog=[0, 5])),
        make_embedder("HashedStatic", EmbedderOptions(), TABLE),
    ]

    assert len({embedder.spec.digest for embedder in several}) == len(several)
    assert make_embedder("Static", EmbedderOptions(), several[3].arrays).spec == several[3].spec


def test_embeddings_of_version_one_never_change() -> None:
    """Weights in use were trained on these very numbers: a change of any of them needs another VERSION."""
    options = EmbedderOptions(bits=16, grams=(3,), surface=True)
    embedding = make_embedder("HashedStatic", options, TABLE).embed("Prove that the cat's square √2 is no 有理数.")

    assert embedding.indices[:4].tolist() == [270, 326, 671, 1392]
    assert len(embedding.indices) == 61
    assert embedding.values[:2].tolist() == pytest.approx([0.126122, 0.126122], abs=1e-5)
    assert embedding.dense.tolist() == pytest.approx(
        [1.0, 0.0, 0.47031, 0.30836, 0.02041, 0.5102, 0.02041, 0.16327, 0.0, 0.0, 0.04082, 0.2449], abs=1e-5
    )


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({}, id="no table"),
        pytest.param({VOCABULARY: TABLE[VOCABULARY]}, id="no vectors"),
        pytest.param(TABLE | {VECTORS: TABLE[VECTORS][:1]}, id="fewer vectors than words"),
        pytest.param(TABLE | {VECTORS: TABLE[VECTORS].astype(np.float32)}, id="vectors of another type"),
        pytest.param(TABLE | {VECTORS: TABLE[VECTORS][:, 0]}, id="no matrix"),
        pytest.param(TABLE | {VECTORS: np.array([[1, np.nan], [0, 1]], np.float16)}, id="no number"),
        pytest.param(TABLE | {VOCABULARY: np.frombuffer(b"cat\ncat", np.uint8)}, id="a word twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(arrays: dict[str, np.ndarray]) -> None:
    """Words and vectors belong to each other."""
    with pytest.raises(ValueError, match=r"vector|vocabulary|word"):
        make_embedder("Static", EmbedderOptions(), arrays)
