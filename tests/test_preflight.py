"""What is known before the first pass is told before the first pass."""

import json
import shutil

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from seal.cli import main
from seal.config.experiment import load_experiment
from seal.lora import LoraSpec, check_fits
from seal.sft import lora_config
from tiny_model import make_tokenizer

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
SMALL = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}
CONFIGS = {
    "llama": ("LlamaConfig", SIZES),
    "tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "phi3": ("Phi3Config", SIZES),
    "mamba": ("MambaConfig", {**SMALL, "state_size": 4}),
    "lfm2": ("Lfm2Config", {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "gpt_oss": ("GptOssConfig", {**SIZES, "num_local_experts": 4, "head_dim": 8}),
    "llama4": (
        "Llama4TextConfig",
        {**SIZES, "intermediate_size_mlp": 48, "num_local_experts": 4, "head_dim": 8},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", {**SIZES, "num_experts": 4, "moe_intermediate_size": 16}),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **SIZES, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4,
            "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "q_lora_rank": 8,
            "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
        },
    ),
}  # fmt: skip


def config_of(name: str) -> transformers.PreTrainedConfig:
    kind, fields = CONFIGS[name]
    return getattr(transformers, kind)(**fields)


def skeleton(name: str):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(name))


def fits(name: str, peft: dict | None = None, **lora) -> None:
    check_fits(skeleton(name), lora_config(LoraSpec(**lora).config(), peft or {}), "train.lora")


def q_and_v(**peft) -> dict:
    return {"name": "llama", "peft": peft, "target_modules": ("q_proj", "v_proj")}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("phi3", "down_proj, embed_tokens, gate_up_proj, lm_head, o_proj, qkv_proj"),
        ("mamba", "dt_proj, embeddings, in_proj, out_proj, x_proj"),
        ("deepseek_v3", "down_proj, embed_tokens, gate_proj, kv_a_proj_with_mqa, kv_b_proj"),
    ],
)
def test_layers_that_are_not_there_are_told_with_those_that_are(name, modules):
    with pytest.raises(ValueError, match=r"train\.lora\.target_modules: .*q_proj.*not found") as e:
        fits(name, target_modules=("q_proj", "v_proj"))
    assert f"There are: {modules}" in str(e.value)
    with pytest.raises(ValueError, match=f"PEFT has no choice of its own for {name}") as e:
        fits(name)
    assert f"Name some of: {modules}" in str(e.value)


@pytest.mark.parametrize("name", ["gpt_oss", "llama4", "qwen3_moe", "mixtral"])
def test_weights_of_stacked_experts_are_told_by_their_own_key(name):
    with pytest.raises(ValueError, match=r"target modules gate_up_proj not found") as caught:
        fits(name, target_modules=("q_proj", "gate_up_proj"))
    assert "train.peft.target_parameters adapts: experts.down_proj, experts.gate_up_proj" in str(
        caught.value
    )
    fits(name, {"target_parameters": ["experts.gate_up_proj"]}, target_modules=("q_proj",))
    with pytest.raises(ValueError, match=r"target_parameters: experts\.w9 not found"):
        fits(name, {"target_parameters": ["experts.w9"]}, target_modules=("q_proj",))


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"mamba"}))
def test_all_linear_fits_every_architecture_that_peft_takes(name):
    fits(name, target_modules="all-linear")


def test_what_peft_cannot_take_is_not_offered():
    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba") as caught:
        fits("mamba", target_modules="all-linear")
    assert str(caught.value).endswith("to some of: dt_proj, embeddings, in_proj, x_proj.")
    fits("mamba", target_modules=("in_proj", "x_proj"))


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"layers_to_transform": [1, 2, 7]}, "layers_to_transform: no layer 2, 7"),
        ({"layers_to_transform": 5}, "layers_to_transform|PEFT cannot"),
        ({"modules_to_save": ["lm_haed"]}, "modules_to_save: lm_haed not found"),
        ({"rank_pattern": {"k_proj": 2}}, r"rank_pattern: k_proj matches no layer .* q_proj, v_pr"),
        ({"alpha_pattern": {"layers.9.q_proj": 2}}, r"alpha_pattern: layers\.9\.q_proj matches"),
        ({"exclude_modules": ["o_prj"]}, "exclude_modules: o_prj not found"),
    ],
)
def test_settings_for_layers_that_are_not_there(peft, said):
    with pytest.raises(ValueError, match=said):
        fits(**q_and_v(**peft))


@pytest.mark.parametrize(
    "peft",
    [
        {"layers_to_transform": [0, 1]},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 2}},
        {"exclude_modules": ["v_proj"]},
    ],
)
def test_settings_for_layers_that_are_there(peft):
    fits(**q_and_v(**peft))


@pytest.mark.parametrize(
    ("modules", "peft", "named"),
    [
        (("q_proj", "embed_tokens"), {}, "embed_tokens"),
        (("q_proj", "lm_head"), {}, "lm_head"),
        (("embed_tokens", "lm_head"), {}, "embed_tokens and lm_head"),
        (("q_proj",), {"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        (("q_proj",), {"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_an_adapter_on_shared_embeddings_cannot_be_merged(modules, peft, named):
    with pytest.raises(ValueError, match=f"train.lora: the adapter trains {named}, but"):
        fits("tied", peft, target_modules=modules)
    fits("llama", peft, target_modules=modules)  # embeddings of their own
    shared = lora_config(LoraSpec(target_modules=modules).config(), peft)
    check_fits(skeleton("tied"), shared, "rank.lora", merges=False)  # no ranker merges


def test_single_tokens_may_be_trained_in_shared_embeddings():
    fits("tied", {"trainable_token_indices": [3, 4]}, target_modules=("q_proj",))


def test_no_weight_is_read_or_made():
    model = skeleton("llama")
    check_fits(model, LoraSpec().config(), "train.lora")
    assert {value.device.type for value in model.parameters()} == {"meta"}


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phi3")
    AutoModelForCausalLM.from_config(config_of("phi3")).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def words(phi, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Q{i}?"}, {"role": "assistant", "content": "A"}]}
        for i in range(6)
    ]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    safe = tmp_path / "safe.jsonl"
    safe.write_text("".join(json.dumps(row) + "\n" for row in rows).replace('"A"', '"B"'))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Kill a process?"}\n')
    given = {
        "run_dir": tmp_path / "run",
        "model.path": phi,
        "pool.path": path,
        "safe.path": safe,
        "rank.method": "loss",
        "train.lora.target_modules": '["qkv_proj"]',
        "train.args.max_steps": 1,
        "evaluate.tasks": json.dumps([{"task": "over_refusal", "path": str(prompts)}]),
        "evaluate.decoding.max_new_tokens": 2,
    }
    return lambda **more: [f"{key}={value}" for key, value in {**given, **more}.items()]


def said(capsys) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"train.lora.target_modules": '["q_proj"]'},
            "train.lora.target_modules: target modules q_proj not found in the model. There are: "
            "down_proj, embed_tokens, gate_up_proj",
        ),
        ({"train.lora.target_modules": "null"}, "PEFT has no choice of its own for phi3"),
        (
            {"rank": '{"method": "less", "lora": {"target_modules": ["q_proj"]}}'},
            "rank.lora.target_modules: target modules q_proj not found",
        ),
        (
            {
                "arms": '["base", "all", {"name": "mine", "train_on": "selected", '
                '"rank": {"method": "less", "lora": {"target_modules": ["v_proj"]}}}]'
            },
            "arm mine: rank.lora.target_modules: target modules v_proj not found",
        ),
        (
            {
                "train.peft.use_dora": "true",
                "arms": '["base", "all", {"name": "half", "merge": {"of": "all", "weight": 0.5}}]',
            },
            "the adapter rescales the sum of base and adapter (use_dora)",
        ),
        (
            {"train": '{"tuning": "full"}', "model.dtype": "bfloat16"},
            "train.tuning=full needs float32 weights",
        ),
    ],
)
def test_config_check_and_run_refuse_before_anything_is_made(
    words, tmp_path, capsys, change, expected
):
    given = [word for word in words(**change) if not (
        "train" in change and word.startswith(("train.", "train.lora"))
    ) and not ("rank" in change and word.startswith("rank."))]  # fmt: skip
    for command in (["config", "check"], ["run"]):
        assert main([*command, *given]) == 2
        assert expected in said(capsys)
        assert not (tmp_path / "run").exists()


def test_config_check_says_what_it_did_not_see(words, capsys):
    assert main(["config", "check", *words(**{"model.path": "no/such/model"})]) == 0
    found = said(capsys)
    assert "valid. The run goes to" in found
    assert "On this machine, it was not checked whether the settings fit the model" in found
    assert main(["config", "check", *words()]) == 0
    assert "not checked" not in said(capsys)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"model.path": "no/such/model", "rank": '{"method": "less"}'}, "no/such/model"),
        ({"rank": '{"method": "density_ratio", "strong": {"path": "../not/here"}}'}, "../not/here"),
        (
            {
                "arms": '["base", {"name": "other", "train_on": "selected", "rank": '
                '{"method": "density_ratio", "strong": {"path": "../not/here"}}}]'
            },
            "arm other: rank.strong: model.path=../not/here: there is no such folder",
        ),
    ],
)
def test_config_check_does_without_the_models_of_rankers(words, capsys, given, missing):
    given = [word for word in words(**given) if not ("rank" in given and "rank.method" in word)]
    assert main(["config", "check", *given]) == 0
    found = said(capsys)
    assert "not checked whether the settings fit the model" in found
    assert missing in found
    assert "Repo id" not in found


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"task": "over_refusal", "path": "gone.jsonl"}, "gone.jsonl"),
        ({"task": "over_refusal", "path": "BAD"}, "bad.jsonl:1"),
        ({"task": "over_refusal", "path": "LONG"}, "tokens"),
        (
            {
                "task": "hex_phi",
                "path": "PROMPTS",
                "judge": {
                    "judge": "rubric",
                    "base_url": "http://127.0.0.1:9/v1",
                    "model": "m",
                    "api_key_env": "SEAL_TEST_NO_SUCH_KEY",
                },
            },
            "the environment variable SEAL_TEST_NO_SUCH_KEY is not set",
        ),
    ],
)
def test_tasks_are_read_before_anything_is_ranked(words, tmp_path, capsys, task, expected):
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "word " * 6000}) + "\n")
    paths = {"BAD": "bad.jsonl", "LONG": "long.jsonl", "PROMPTS": "prompts.jsonl"}
    if task["path"] in paths:
        task = {**task, "path": str(tmp_path / paths[task["path"]])}
    assert main(["run", *words(**{"evaluate.tasks": json.dumps([task])})]) == 2
    assert expected in said(capsys)
    assert not (tmp_path / "run").exists()


def test_who_ranks_only_is_warned(words, tmp_path, capsys, caplog):
    given = words(**{"train.lora.target_modules": '["q_proj"]'})
    assert main(["rank", *given]) == 0
    assert "`seal train` will refuse: train.lora.target_modules: target modules q_proj" in (
        caplog.text + said(capsys)
    )
    assert main(["select", *given]) == 0
    assert main(["train", *given]) == 2
    assert not (tmp_path / "run" / "train").exists()


def test_a_finished_run_is_up_to_date_without_its_tasks(words, tmp_path, capsys):
    given = words()
    assert main(["run", *given]) == 0
    experiment = load_experiment(None, given)
    assert (experiment.run_dir / "report" / "index.html").is_file()
    assert main(["run", *given]) == 0
    shutil.rmtree(tmp_path / "run")
    capsys.readouterr()
