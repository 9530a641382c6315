"""Writes one valid input per fuzz target to tests/fuzz/corpus/, from which the fuzzer goes on."""

import json
import math
import pathlib
import struct

folder = pathlib.Path(__file__).parent
corpus = folder / "corpus"


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def unsigned(key, value):
    return string(key) + struct.pack("<II", 4, value)


def real(key, value):
    return string(key) + struct.pack("<If", 6, value)


def strings(key, values):
    return string(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(string, values))


def text(key, value):
    return string(key) + struct.pack("<I", 8) + string(value)


# Bytes of a block of so many elements, by the type's number in GGUF files.
BLOCKS = {0: (4, 1), 2: (18, 32), 3: (20, 32), 8: (34, 32), 30: (2, 1)}


def gguf(matrices):
    """A whole model of one layer, whose matrices have this type, so that the engine computes with it."""
    tokens = ["<s>", "</s>"] + [chr(code) for code in range(33, 127)] + ["\u0120", "En", "er", "Ener", "gy"]
    metadata = [
        text("general.architecture", "llama"),
        unsigned("llama.embedding_length", 32),
        unsigned("llama.feed_forward_length", 32),
        unsigned("llama.block_count", 1),
        unsigned("llama.attention.head_count", 2),
        unsigned("llama.attention.head_count_kv", 1),
        unsigned("llama.context_length", 64),
        unsigned("llama.rope.dimension_count", 16),
        real("llama.attention.layer_norm_rms_epsilon", 1e-5),
        real("llama.rope.freq_base", 10000.0),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "smollm"),
        strings("tokenizer.ggml.tokens", tokens),
        strings("tokenizer.ggml.merges", ["E n", "e r", "En er", "g y"]),
        string("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(tokens))
        + struct.pack(f"<{len(tokens)}i", *([3, 3] + [1] * (len(tokens) - 2))),
        unsigned("tokenizer.ggml.bos_token_id", 0),
        unsigned("tokenizer.ggml.eos_token_id", 1),
    ]
    shapes = {
        "token_embd": [32, len(tokens)], "output_norm": [32], "blk.0.attn_norm": [32], "blk.0.attn_q": [32, 32],
        "blk.0.attn_k": [32, 16], "blk.0.attn_v": [32, 16], "blk.0.attn_output": [32, 32], "blk.0.ffn_norm": [32],
        "blk.0.ffn_gate": [32, 32], "blk.0.ffn_up": [32, 32], "blk.0.ffn_down": [32, 32],
    }
    records, data = b"", b""
    for name, shape in shapes.items():
        kind = matrices if len(shape) == 2 else 0
        size, elements = BLOCKS[kind]
        records += string(name + ".weight") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        records += struct.pack("<IQ", kind, len(data))
        data += b"\0" * (math.prod(shape) // elements * size)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)) + b"".join(metadata) + records
    return head + b"\0" * (-len(head) % 32) + data


def safetensors():
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


CONFIGURATION = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 99, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}

for name, inputs in {
    "gguf": {f"type-{kind}": gguf(kind) for kind in BLOCKS},
    "safetensors": {"valid": safetensors(), "configuration": json.dumps(CONFIGURATION).encode()},
    "experiment": {path.stem: path.read_bytes() for path in (folder / "../../examples").glob("*.yaml")},
}.items():
    (corpus / name).mkdir(parents=True, exist_ok=True)
    for stem, data in inputs.items():
        (corpus / name / f"seed-{stem}").write_bytes(data)
