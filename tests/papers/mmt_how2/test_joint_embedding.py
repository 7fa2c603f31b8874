"""The joint embedding: its loss in closed form, its retrieval, and the words it leads to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.mmt_how2.correction.joint_embedding import (
    JointEmbedding,
    JointEmbeddingSettings,
    PictureWords,
    nearest,
    recall_at,
    train_joint_embedding,
    two_way_hinge,
)
from papers.mmt_how2.correction.minibatch_training import Minibatches
from papers.mmt_how2.correction.padded_text import encoded, padded, word_vocabulary

TINY = JointEmbeddingSettings(width=16, word_embedding=16, hidden=16)
TEXTS = [f"the {noun} {verb}" for noun in ("pike", "pipe", "chalk") for verb in ("is", "was")]


def untrained() -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding(6, word_vocabulary(TEXTS), TINY)


def test_the_hinge_of_two_pairs_in_closed_form() -> None:
    similarity = torch.tensor([[0.9, 0.8], [0.3, 0.5]])
    # texts of picture 1: .2 - .9 + .8; of picture 2: .2 - .5 + .3 = 0;
    # pictures of text 1: .2 - .9 + .3 < 0; of text 2: .2 - .5 + .8
    assert float(two_way_hinge(similarity, 0.2)) == pytest.approx((0.1 + 0.5) / 2)
    assert float(two_way_hinge(similarity.T, 0.2)) == pytest.approx((0.1 + 0.5) / 2)


def test_the_hardest_negative_is_one_of_all() -> None:
    torch.manual_seed(0)
    similarity = torch.rand(5, 5)
    every = float(two_way_hinge(similarity, 0.2))
    hardest = float(two_way_hinge(similarity, 0.2, "hardest"))
    assert 0 < hardest < every
    pair = similarity[:2, :2]
    assert two_way_hinge(pair, 0.2) == two_way_hinge(pair, 0.2, "hardest")


def test_pairs_that_are_a_margin_apart_cost_nothing() -> None:
    assert float(two_way_hinge(torch.eye(4), 0.99)) == 0
    assert float(two_way_hinge(torch.ones(1, 1), 0.2)) == 0


def test_the_embedding_of_a_text_does_not_depend_on_its_padding() -> None:
    model = untrained()
    text = encoded(TEXTS, model.vocabulary)
    wider = text._replace(ids=torch.nn.functional.pad(text.ids, (0, 5), value=3))
    torch.testing.assert_close(model.encode_text(wider), model.encode_text(text))
    mixed = padded([[2, 3], [2, 3, 4, 4, 4, 4]])
    torch.testing.assert_close(
        model.encode_text(mixed)[:1], model.encode_text(mixed.take(torch.tensor([0])))
    )


def test_embeddings_are_unit_vectors_whatever_the_size_of_a_feature() -> None:
    model = untrained()
    torch.nn.init.zeros_(model.picture.bias)
    features = torch.eye(6)
    vectors = model.embed_pictures(features, batch_size=4)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(model.embed_pictures(7 * features), vectors)


def test_recall_of_a_perfect_embedding_is_one_and_of_a_collapsed_one_nothing() -> None:
    assert recall_at(torch.eye(7), 1) == 1
    assert recall_at(torch.ones(7, 7), 6) == 0
    assert recall_at(torch.ones(7, 7), 7) == 1


def test_recall_grows_with_k() -> None:
    # The own column is at rank 1, 2 and 3.
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.9, 0.8, 0.7]])
    assert [recall_at(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_the_nearest_are_those_of_the_whole_table() -> None:
    torch.manual_seed(0)
    queries, among = torch.randn(5, 3), torch.randn(9, 3)
    expected = (queries @ among.T).argsort(1, descending=True)[:, :4]
    assert torch.equal(nearest(queries, among, 4, batch_size=2), expected)
    with pytest.raises(InputError, match="neighbours 10; allowed: 1 to 9"):
        nearest(queries, among, 10)


def pictures(copies: int) -> tuple[Tensor, list[str]]:
    """Pictures that show which sentence was said, with some noise."""
    torch.manual_seed(1)
    return torch.eye(6).repeat(copies, 1) + 0.1 * torch.randn(6 * copies, 6), TEXTS * copies


@pytest.fixture(scope="module")
def trained() -> JointEmbedding:
    schedule = Minibatches(epochs=60, batch_size=12, learning_rate=0.01)
    return train_joint_embedding(*pictures(4), TINY, schedule, seed=1)


def test_it_learns_which_text_goes_with_a_picture(trained: JointEmbedding) -> None:
    features, texts = pictures(1)
    similarity = trained.embed_pictures(features) @ trained.embed_text(texts).T
    assert recall_at(similarity, 1) == 1
    assert recall_at(similarity.T, 1) == 1


def test_words_of_the_nearest_transcripts_are_counted_and_smoothed(
    trained: JointEmbedding,
) -> None:
    words = PictureWords(trained, pictures(4)[1], neighbours=4, smoothing=0.5)
    known = trained.vocabulary
    assert len(known) == 8  # end, unknown, the, pike, pipe, chalk, is, was
    (logs,) = words.log_chances(torch.eye(6)[:1])
    chances = logs.exp()
    # Four transcripts "the pike is": twelve words, and half a word for each of seven.
    total = 12 + 7 * 0.5
    expected = {"the": 4.5, "pike": 4.5, "is": 4.5, "pipe": 0.5, "<unk>": 0.5, "<eos>": 0}
    for word, count in expected.items():
        assert float(chances[known.ids[word]]) == pytest.approx(count / total)
    assert float(chances.sum()) == pytest.approx(1)


def test_a_candidate_is_a_bag_of_words(trained: JointEmbedding) -> None:
    words = PictureWords(trained, pictures(4)[1], neighbours=4, smoothing=0.5)
    (scores,) = words.scores(
        torch.eye(6)[:1], [["the pike is", "is the pike", "the pipe is", "the pikes is", ""]]
    )
    right, turned, wrong, unknown, empty = scores
    assert right == pytest.approx(3 * math.log(4.5 / 15.5), abs=1e-5)
    assert turned == pytest.approx(right, abs=1e-5)
    assert right - wrong == pytest.approx(math.log(4.5 / 0.5), abs=1e-5)
    assert unknown == pytest.approx(wrong, abs=1e-5)
    assert empty == 0


def test_more_smoothing_tells_candidates_less_apart(trained: JointEmbedding) -> None:
    gaps = []
    for smoothing in (0.01, 1.0, 1e6):
        words = PictureWords(trained, pictures(4)[1], neighbours=4, smoothing=smoothing)
        ((right, wrong),) = words.scores(torch.eye(6)[:1], [["pike", "pipe"]])
        gaps.append(right - wrong)
    assert gaps[0] > gaps[1] > gaps[2] == pytest.approx(0, abs=1e-4)


def test_unusable_pairs_are_refused() -> None:
    schedule = Minibatches(epochs=1)
    with pytest.raises(InputError, match=r"features \(5, 6\) for 6 transcripts"):
        train_joint_embedding(torch.eye(6)[:5], TEXTS, TINY, schedule, seed=1)
    with pytest.raises(InputError, match="smoothing 0; allowed: above 0"):
        PictureWords(untrained(), TEXTS, smoothing=0)
    with pytest.raises(InputError, match="1 lists of candidates for 2 pictures"):
        PictureWords(untrained(), TEXTS, neighbours=2).scores(torch.eye(6)[:2], [["a"]])
