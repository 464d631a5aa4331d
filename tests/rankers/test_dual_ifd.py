import numpy as np
import pytest

from rankers.conftest import encoded, make_pool, make_safe, make_task
from rankers.second_model import save_second_model
from seal.data.sample import Message, Sample
from seal.data.tokenize import FALLBACK_TEMPLATE, Tokenization
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.dual_ifd import DualIfd, gap
from seal.rankers.ifd import Ifd, IfdTable, measure_ifd
from seal.rankers.ranker import RankingTask
from seal.tables import Tables


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory):
    return save_second_model(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory):
    return save_second_model(tmp_path_factory.mktemp("other"), other_tokenizer=True)


def spec(folder) -> ModelSpec:
    return ModelSpec(path=str(folder))


def pool_task(lm, num=8):
    return make_task(lm, make_pool(num), make_safe(), [])


def talk_task(lm) -> RankingTask:
    talks = {"a": "The sea is blue.", "b": "Grass is green.", "c": "Seals."}
    samples = {
        key: Sample(key, (Message("user", f"What is {key}?"),), (Message("assistant", text),))
        for key, text in talks.items()
    }
    pool = lm.encoder.encode(list(samples.values()), Tokenization())
    return RankingTask(lm, pool, make_safe(), (), samples)


def test_the_worked_example():
    small, large = np.array([0.9, 0.7]), np.array([0.6, 0.75])
    assert gap(small, large, log=False) == pytest.approx([0.3, -0.05])
    assert gap(small, large, log=True) == pytest.approx([np.log(1.5), np.log(0.7 / 0.75)])


def test_an_ifd_of_0_has_a_finite_logarithm():
    assert gap(np.array([0.0]), np.array([0.5]), log=True) == pytest.approx(
        [np.log(1e-8) - np.log(0.5)]
    )


@pytest.mark.parametrize("form", ["loss", "ppl"])
@pytest.mark.parametrize("log", [False, True])
def test_score_is_the_small_models_ifd_minus_the_large_ones(lm, second_dir, form, log):
    task = pool_task(lm)
    small = Ifd(form=form).rank(task).columns["ifd"]
    second = load_model(spec(second_dir))
    large = Ifd(form=form).rank(pool_task(second)).columns["ifd"]
    ranking = DualIfd(large=spec(second_dir), form=form, log=log).rank(task)
    expected = np.log(small) - np.log(large) if log else small - large
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)
    np.testing.assert_allclose(ranking.columns["small_ifd"], small, atol=1e-6)
    np.testing.assert_allclose(ranking.columns["large_ifd"], large, atol=1e-6)
    assert np.abs(ranking.scores).max() > 1e-3
    swapped = DualIfd(small=spec(second_dir), form=form, log=log).rank(task)
    np.testing.assert_allclose(swapped.scores, -ranking.scores, atol=1e-9)


@pytest.mark.parametrize("form", ["loss", "ppl"])
@pytest.mark.parametrize("log", [False, True])
def test_the_same_model_twice_has_no_gap(lm, tiny_model_dir, form, log):
    ranking = DualIfd(large=spec(tiny_model_dir), form=form, log=log).rank(pool_task(lm))
    np.testing.assert_array_equal(ranking.scores, np.zeros(8))


def test_an_adapter_makes_a_second_model_of_the_own_one(lm, tiny_model_dir, tmp_path):
    model = add_lora(load_model(spec(tiny_model_dir)).model, LoraSpec(), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    model.save_pretrained(tmp_path)
    task = pool_task(lm)
    rows = sorted(task.pool, key=lambda row: row.id)
    expected = measure_ifd(Tables(), load_model(spec(tiny_model_dir), tmp_path), rows, "ppl")
    ranking = DualIfd(large_adapter=tmp_path).rank(task)
    np.testing.assert_allclose(ranking.columns["large_ifd"], expected.ifd, atol=1e-6)
    assert np.abs(ranking.scores).max() > 1e-3
    assert (DualIfd(small_adapter=tmp_path).rank(task).scores == -ranking.scores).all()


def test_another_tokenizer_is_measured_on_its_own_tokens(lm, other_dir):
    task = talk_task(lm)
    other = load_model(spec(other_dir))
    rows = other.encoder.encode(list(task.samples.values()), task.tokenization)
    small = measure_ifd(Tables(), lm, task.pool, "loss").ifd
    large = measure_ifd(Tables(), other, rows, "loss").ifd
    ranking = DualIfd(large=spec(other_dir), form="loss").rank(task)
    np.testing.assert_allclose(ranking.scores, small - large, atol=1e-6)


def test_another_tokenizers_perplexities_are_refused(lm, other_dir):
    with pytest.raises(ValueError, match=r"rank\.form=ppl: .*rank\.small .*rank\.form=loss"):
        DualIfd(small=spec(other_dir)).rank(talk_task(lm))


def test_what_one_model_cannot_measure_has_no_gap(lm, second_dir):
    short = encoded("short", [2, 60, 1, 3], [20])
    task = make_task(lm, [*make_pool(2), short], make_safe(), [])
    ranking = DualIfd(large=spec(second_dir)).rank(task)
    assert ranking.by_id()["short"] == 0
    flags = dict(zip(ranking.ids, ranking.columns["is_measured"].tolist(), strict=True))
    assert flags == {"good-00": True, "planted-01": True, "short": False}


def test_a_gap_needs_both_ifds(lm, second_dir, monkeypatch):
    def ranked(small: list[bool], large: list[bool]) -> dict[str, float]:
        ones = np.ones(2)
        made = iter(
            IfdTable(np.full(2, ifd), ones, ones, np.array(flags))
            for ifd, flags in ((0.5, small), (0.25, large))
        )
        monkeypatch.setattr("seal.rankers.dual_ifd.measure_ifd", lambda *_: next(made))
        rows = [encoded("a", [2, 3], [20, 1]), encoded("b", [2, 3], [21, 1])]
        task = make_task(lm, rows, make_safe(), [])
        return DualIfd(large=spec(second_dir)).rank(task).by_id()

    assert ranked([True, False], [True, True]) == {"a": 0.25, "b": 0}
    assert ranked([True, True], [False, True]) == {"a": 0, "b": 0.25}


def test_another_template_does_not_matter_where_the_tokens_are_the_same(lm, second_dir, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(FALLBACK_TEMPLATE)
    other = spec(second_dir).model_copy(update={"chat_template": template})
    task = talk_task(lm)
    plain, templated = (DualIfd(large=m, form="loss").rank(task) for m in (spec(second_dir), other))
    np.testing.assert_array_equal(templated.scores, plain.scores)


def test_one_model_alone_is_refused():
    with pytest.raises(ValueError, match="small and large are both the run's own model"):
        DualIfd(log=True)
