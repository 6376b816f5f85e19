"""Makes a two-layer Llama with random weights and a byte-level tokenizer; run by the vLLM environment's Python.

Stands in for `hf download ORG/MODEL --local-dir FOLDER`, because there is no model hub: the same arguments, the same
result (a folder that vLLM can serve), without the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def main() -> None:
    """The folder holds a model that vLLM can serve."""
    parser = argparse.ArgumentParser(prog="hf download")
    parser.add_argument("command", choices=["download"])
    parser.add_argument("repository")
    parser.add_argument("--revision")
    parser.add_argument("--exclude", action="append")
    parser.add_argument("--local-dir", type=Path, required=True)
    folder: Path = parser.parse_args().local_dir
    if not (folder / "config.json").exists():
        _make(folder)


def _make(folder: Path) -> None:
    # vLLM's CPU attention has no kernel for heads of 16; 64 works.
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    return fast


if __name__ == "__main__":
    main()
