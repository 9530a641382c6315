"""Writes one valid input per fuzz target to tests/fuzz/corpus/, from which the fuzzer goes on."""

import json
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


def gguf():
    tokens = ["<s>", "</s>"] + [chr(code) for code in range(33, 127)] + ["\u0120", "En", "er", "Ener", "gy"]
    metadata = [
        text("general.architecture", "llama"),
        unsigned("llama.embedding_length", 16),
        unsigned("llama.feed_forward_length", 32),
        unsigned("llama.block_count", 1),
        unsigned("llama.attention.head_count", 2),
        unsigned("llama.attention.head_count_kv", 1),
        unsigned("llama.context_length", 64),
        unsigned("llama.rope.dimension_count", 8),
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
    tensor = string("token_embd.weight") + struct.pack("<IQQIQ", 2, 16, len(tokens), 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata)) + b"".join(metadata) + tensor
    head += b"\0" * (-len(head) % 32)
    return head + b"\0" * (16 * len(tokens) * 4)


def safetensors():
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


CONFIGURATION = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 99, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}

for name, inputs in {
    "gguf": {"valid": gguf()},
    "safetensors": {"valid": safetensors(), "configuration": json.dumps(CONFIGURATION).encode()},
    "experiment": {path.stem: path.read_bytes() for path in (folder / "../../examples").glob("*.yaml")},
}.items():
    (corpus / name).mkdir(parents=True, exist_ok=True)
    for stem, data in inputs.items():
        (corpus / name / f"seed-{stem}").write_bytes(data)
