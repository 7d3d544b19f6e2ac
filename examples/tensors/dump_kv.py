#!/usr/bin/env python3
# examples/tensors/dump_kv.py - keys, values and queries of a Hugging Face model reading a text, for compare_policies --kv DIR.
# SPDX-License-Identifier: MIT
"""python3 dump_kv.py MODEL TEXT_FILE DIR [TOKENS]: needs numpy, torch and transformers 4.48 or newer; model and text as one likes."""
import os
import sys

import numpy


def write(folder, layer, keys, values, queries, save=numpy.savez):
    """One layer as DIR/layer_N.npz: [batch, head, token, dim], keys and queries after the rotary embedding."""
    os.makedirs(folder, exist_ok=True)
    save(os.path.join(folder, f"layer_{layer}.npz"), keys=keys, values=values, queries=queries)


def dump(name, text, folder, tokens):
    import torch
    from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(module, query, key, value, mask, scaling=None, **rest):
        own = 1.0 if scaling is None else scaling * query.shape[-1] ** 0.5  # compare_policies scales by 1 / sqrt(dim)
        write(folder, module.layer_idx, *(x.detach().float().cpu().numpy() for x in (key, value, query * own)))
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **rest)

    AttentionInterface.register("dump", attention)
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="dump")
    ids = AutoTokenizer.from_pretrained(name)(text, return_tensors="pt").input_ids[:, :tokens]
    with torch.no_grad():
        model(ids, use_cache=False)
    model.config.save_pretrained(folder)  # config.json: heads and rotary embedding


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    with open(sys.argv[2], encoding="utf-8") as file:
        dump(sys.argv[1], file.read(), sys.argv[3], int(sys.argv[4]) if len(sys.argv) == 5 else 1024)
