#!/usr/bin/env bash
# In llm-compressor mask_structure="1:4" removes 1 weight of 4, and the sparsity=0.75 beside it is ignored.
#
# Guess: N:M means N kept of M, as in the papers, at NVIDIA and in torchao's mask_creator, so 1:4 is 75 % sparse. Where
#   sparsity and mask_structure contradict each other, an error tells.
# Versions: llmcompressor 0.14.0.1, transformers 5.17.0, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: WandaPruningModifier and SparseGPTModifier prune N of every M, and read `sparsity` only where there is
#   no N:M. Asked for 0.75 and 1:4 they leave 75 % of the weights; asked for 0.75 and 2:4, 50 %. Nothing is raised or
#   logged. At 2:4, the one example of their docs, both readings are the same.
# Who is hurt: N:M other than half: a model called 1:4 has three times the weights of a true one, and their
#   accuracies are compared.
# Remedy: write "3:4" for one kept of four, and count the zeros of a group afterwards.
#
# Output seen (groups of 4 weights of one layer, by the number kept):
#                      sparsity  mask_structure  zeros  0 kept  1 kept  2 kept  3 kept  4 kept
#   Wanda              0.75      1:4             0.25   0       0       0       512     0
#   Wanda              0.75      2:4             0.50   0       0       512     0       0
#   Wanda              0.75      3:4             0.75   0       512     0       0       0
#   SparseGPT          0.75      1:4             0.25   0       0       0       512     0
#   SparseGPT          0.75      2:4             0.50   0       0       512     0       0
#   SparseGPT          0.75      3:4             0.75   0       512     0       0       0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    llmcompressor==0.14.0.1 transformers==5.17.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
export HOME="$folder" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | grep -v WARNING
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from loguru import logger
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

logger.remove()
torch.manual_seed(0)
words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a", unk_token="b")
config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=32,
)
LlamaForCausalLM(config).save_pretrained("model")
tokenizer.save_pretrained("model")
rows = {"input_ids": torch.randint(64, (16, 32)).tolist(), "attention_mask": [[1] * 32] * 16}
data = torch.utils.data.DataLoader(Dataset.from_dict(rows).with_format("torch"), batch_size=4)

kept = "  ".join(f"{count} kept" for count in range(5))
print(f"{'':<19}sparsity  mask_structure  zeros  {kept}")
for modifier in (WandaPruningModifier, SparseGPTModifier):
    for structure in ("1:4", "2:4", "3:4"):
        model = LlamaForCausalLM.from_pretrained("model")
        recipe = modifier(sparsity=0.75, mask_structure=structure)
        oneshot(model=model, processor=tokenizer, dataset=data, recipe=recipe, pipeline="basic")
        weight = model.model.layers[0].mlp.up_proj.weight
        groups = (weight != 0).reshape(-1, 4).sum(dim=1)
        counts = torch.bincount(groups, minlength=5).tolist()
        zeros = float((weight == 0).float().mean())
        name = modifier.__name__.removesuffix("Modifier").removesuffix("Pruning")
        cells = "".join(f"{count:<8}" for count in counts).rstrip()
        print(f"{name:<19}{0.75:<10}{structure:<16}{zeros:<7.2f}{cells}", flush=True)
        removed = int(structure[0])
        assert counts[4 - removed] == len(groups), "N counts what is kept now"
PYTHON
