import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from conftest import make_model, make_tokenizer
from rankers.conftest import make_pool
from seal.data.sample import Message
from seal.models import LoraSpec, ModelSpec, add_lora, load_encoder, load_model, save_model
from seal.rankers.loss import Loss
from seal.rankers.ranker import RankingTask


def test_no_model_there(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=rf"model.path={path}: no .* could be loaded .*Give"):
            load_model(ModelSpec(path=path))


def test_tokenizer_and_model_that_do_not_belong_together(tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    make_model(100).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"tokenizer has 3\d\d tokens, but the model only 100 embe"
    ):
        load_model(ModelSpec(path=str(tmp_path)))


def test_a_tokenizer_without_pad_token_gives_the_same_losses(tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = None
    make_model(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = [
        Loss(batch_size=5).rank(RankingTask(load_model(ModelSpec(path=str(path))), make_pool(), ()))
        for path in (tiny_model_dir, tmp_path)
    ]
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id is None
    np.testing.assert_allclose(scores[0].scores, scores[1].scores, atol=1e-6)


def test_pickled_weights_are_refused(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    model = make_model(len(tokenizer))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model could be loaded"):
        load_model(ModelSpec(path=str(tmp_path)))


def test_adapters_depend_on_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [add_lora(make_model(64), LoraSpec(r=2), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    values = [
        torch.cat([p.flatten() for n, p in m.named_parameters() if "lora_A" in n]) for m in models
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_lora_on_modules_that_do_not_exist():
    with pytest.raises(ValueError, match=r"[Tt]arget modules .*no_such_layer.* not found"):
        add_lora(make_model(64), LoraSpec(target_modules=("no_such_layer",)), seed=0)


def test_a_template_file_is_used_and_saved(tiny_model_dir, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    spec = ModelSpec(path=str(tiny_model_dir), chat_template=template)
    lm = load_model(spec)
    own = load_encoder(ModelSpec(path=str(tiny_model_dir)), lm.tokenizer)
    assert lm.encoder.template_hash != own.template_hash
    save_model(lm.model, spec, tmp_path / "saved")
    again = load_model(ModelSpec(path=str(tmp_path / "saved")))
    prompt = [(Message("user", "Hi"),)]
    assert again.encoder.prompt_ids(prompt) == lm.encoder.prompt_ids(prompt)
