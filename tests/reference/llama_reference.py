"""Greedy reference for a llama-family GGUF file, independent of candle and of llama.cpp.

Reads the GGUF file, dequantises every weight to float32, tokenises with a byte-level BPE written out below, and
decodes greedily with a key-value cache. Only numpy and `regex` are used.

    python3 llama_reference.py MODEL.gguf OUTPUT.json
"""

import json
import struct
import sys

import numpy
import regex

PROMPTS = [
    "The capital of France is",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    ",
    "Once upon a time, in 1984, there lived",
    "List three primary colors:\n1.",
    "The three laws of thermodynamics say that",
    "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou answer in one word.<|im_end|>\n<|im_start|>user\nIs the sun a star?<|im_end|>\n<|im_start|>assistant\n",
    "use std::collections::HashMap;\n\nfn main() {\n",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "Dear Sir or Madam,\n\nI am writing to",
    "Energy is measured in joules, power in",
    "Q: What is 17 + 25?\nA:",
    "The quick brown fox",
    "In 1969, Neil Armstrong",
    "Breaking news: scientists have discovered",
    '{"name": "Ada", "born": 1815, "profession":',
    "Les enfants jouent dans",
    "Water boils at 100 degrees Celsius at sea level. On a high mountain the pressure of the air is lower, so",
    # Longer than two blocks of a paged cache.
    "A graphics processor spends energy in three places. It moves data between its memory and its cores, it multiplies "
    "and adds numbers, and it leaks a little current while it waits. When a language model writes a text one token at a "
    "time, nearly all of its weights are read for every token, and few multiplications are made with each of them. When "
    "it reads a prompt, the same weights serve hundreds of tokens at once. That is why the energy of a token depends on",
]
OUTPUT_TOKENS = 64
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Reader:
    def __init__(self, data):
        self.data, self.position = data, 0

    def scalar(self, form):
        value = struct.unpack_from(form, self.data, self.position)[0]
        self.position += struct.calcsize(form)
        return value

    def string(self):
        length = self.scalar("<Q")
        value = bytes(self.data[self.position : self.position + length]).decode("utf-8")
        self.position += length
        return value

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def dequantise(kind, raw, count):
    if kind == 0:
        return raw[: count * 4].view("<f4").astype(numpy.float32)
    if kind == 1:
        return raw[: count * 2].view("<f2").astype(numpy.float32)
    blocks = count // 32
    if kind in (2, 3):  # Q4_0, Q4_1
        size = 18 if kind == 2 else 20
        block = raw[: blocks * size].reshape(blocks, size)
        scale = block[:, 0:2].copy().view("<f2").astype(numpy.float32)
        quants = block[:, size - 16 :]
        values = numpy.concatenate([quants & 15, quants >> 4], axis=1).astype(numpy.float32)
        if kind == 2:
            return (scale * (values - 8)).reshape(-1)
        return (scale * values + block[:, 2:4].copy().view("<f2").astype(numpy.float32)).reshape(-1)
    if kind == 8:  # Q8_0
        block = raw[: blocks * 34].reshape(blocks, 34)
        scale = block[:, 0:2].copy().view("<f2").astype(numpy.float32)
        return (scale * block[:, 2:].view(numpy.int8).astype(numpy.float32)).reshape(-1)
    if kind == 14:  # Q6_K
        blocks = count // 256
        block = raw[: blocks * 210].reshape(blocks, 210)
        low, high = block[:, :128].reshape(blocks, 2, 64), block[:, 128:192].reshape(blocks, 2, 32)
        scales = block[:, 192:208].view(numpy.int8).astype(numpy.float32).reshape(blocks, 16)
        scale = block[:, 208:210].copy().view("<f2").astype(numpy.float32)
        parts = [
            (low[:, :, :32] & 15) | ((high & 3) << 4),
            (low[:, :, 32:] & 15) | (((high >> 2) & 3) << 4),
            (low[:, :, :32] >> 4) | (((high >> 4) & 3) << 4),
            (low[:, :, 32:] >> 4) | (((high >> 6) & 3) << 4),
        ]
        values = numpy.stack(parts, axis=2).astype(numpy.int8).astype(numpy.float32) - 32
        return (scale[:, :, None] * scales[:, :, None] * values.reshape(blocks, 16, 16)).reshape(-1)
    raise SystemExit(f"tensor type {kind} is not implemented")


def load(path):
    data = numpy.memmap(path, dtype=numpy.uint8, mode="r")
    reader = Reader(data)
    assert reader.scalar("<I") == 0x46554747, "not GGUF"
    reader.scalar("<I")
    tensor_count, metadata_count = reader.scalar("<Q"), reader.scalar("<Q")
    metadata = {}
    for _ in range(metadata_count):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar("<I"))
    records = []
    for _ in range(tensor_count):
        name = reader.string()
        dimensions = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))]
        records.append((name, dimensions, reader.scalar("<I"), reader.scalar("<Q")))
    alignment = metadata.get("general.alignment", 32)
    start = (reader.position + alignment - 1) // alignment * alignment
    tensors = {}
    for name, dimensions, kind, offset in records:
        count = int(numpy.prod(dimensions))
        tensors[name] = dequantise(kind, numpy.asarray(data[start + offset :]), count).reshape(dimensions[::-1])
    return metadata, tensors, {kind for _, _, kind, _ in records}


class Tokenizer:
    """Byte-level BPE with the `smollm` pre-tokenizer: single digits, then the GPT-2 pattern."""

    def __init__(self, metadata):
        assert metadata["tokenizer.ggml.model"] == "gpt2"
        self.tokens = metadata["tokenizer.ggml.tokens"]
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
        kinds = metadata["tokenizer.ggml.token_type"]
        special = [token for token, kind in zip(self.tokens, kinds) if kind in (3, 4)]
        self.special = regex.compile("(" + "|".join(map(regex.escape, sorted(special, key=len, reverse=True))) + ")")
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        self.bytes, extra = {byte: chr(byte) for byte in printable}, 0
        for byte in range(256):
            if byte not in self.bytes:
                self.bytes[byte], extra = chr(256 + extra), extra + 1
        self.pattern = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def word(self, word):
        parts = [self.bytes[byte] for byte in word.encode("utf-8")]
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, 1 << 60) for pair in zip(parts, parts[1:])]
            best = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[best] == 1 << 60:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return [self.ids[part] for part in parts]

    def encode(self, text):
        output = []
        for piece in self.special.split(text):
            if self.special.fullmatch(piece):
                output.append(self.ids[piece])
                continue
            for run in filter(None, regex.split(r"(\p{N})", piece)):
                for match in self.pattern.finditer(run):
                    output.extend(self.word(match.group()))
        return output


class Llama:
    def __init__(self, metadata, tensors):
        self.tensors = tensors
        self.layers = metadata["llama.block_count"]
        self.heads = metadata["llama.attention.head_count"]
        self.groups = metadata["llama.attention.head_count_kv"]
        self.width = metadata["llama.embedding_length"] // self.heads
        self.epsilon = metadata["llama.attention.layer_norm_rms_epsilon"]
        base = metadata.get("llama.rope.freq_base", 10000.0)
        self.frequencies = base ** (-numpy.arange(0, self.width, 2, dtype=numpy.float64) / self.width)
        self.head = tensors.get("output.weight", tensors["token_embd.weight"])
        self.cache = [None] * self.layers

    def normalise(self, values, name):
        scale = numpy.sqrt(numpy.mean(values * values, axis=-1, keepdims=True) + self.epsilon)
        return values / scale * self.tensors[name]

    def rotate(self, values, start):
        """Pairs (2i, 2i+1): the GGUF converter has permuted the rows of q and k to this convention."""
        angles = numpy.outer(numpy.arange(start, start + values.shape[0]), self.frequencies)
        cosine, sine = numpy.cos(angles)[:, None].astype("f4"), numpy.sin(angles)[:, None].astype("f4")
        even, odd = values[..., 0::2], values[..., 1::2]
        return numpy.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).reshape(values.shape)

    def forward(self, tokens, start):
        hidden, count = self.tensors["token_embd.weight"][tokens], len(tokens)
        for layer in range(self.layers):
            weight = lambda name: self.tensors[f"blk.{layer}.{name}.weight"]
            values = self.normalise(hidden, f"blk.{layer}.attn_norm.weight")
            queries = self.rotate((values @ weight("attn_q").T).reshape(count, self.heads, self.width), start)
            keys = self.rotate((values @ weight("attn_k").T).reshape(count, self.groups, self.width), start)
            contents = (values @ weight("attn_v").T).reshape(count, self.groups, self.width)
            if start:
                keys = numpy.concatenate([self.cache[layer][0], keys])
                contents = numpy.concatenate([self.cache[layer][1], contents])
            self.cache[layer] = (keys, contents)
            repeat = self.heads // self.groups
            scores = numpy.einsum("qhd,khd->hqk", queries, keys.repeat(repeat, 1)) / numpy.sqrt(self.width)
            visible = numpy.arange(len(keys))[None] <= numpy.arange(start, start + count)[:, None]
            scores = numpy.where(visible[None], scores, -numpy.inf)
            scores = numpy.exp(scores - scores.max(-1, keepdims=True))
            scores = (scores / scores.sum(-1, keepdims=True)).astype("f4")
            mixed = numpy.einsum("hqk,khd->qhd", scores, contents.repeat(repeat, 1)).reshape(count, -1)
            hidden = hidden + mixed @ weight("attn_output").T
            values = self.normalise(hidden, f"blk.{layer}.ffn_norm.weight")
            gate = values @ weight("ffn_gate").T
            hidden = hidden + (gate / (1 + numpy.exp(-gate)) * (values @ weight("ffn_up").T)) @ weight("ffn_down").T
        return self.normalise(hidden[-1], "output_norm.weight") @ self.head.T


def main():
    metadata, tensors, kinds = load(sys.argv[1])
    print("tensor types", kinds, "pre", metadata.get("tokenizer.ggml.pre"), file=sys.stderr)
    tokenizer, cases = Tokenizer(metadata), []
    for text in PROMPTS:
        model, prompt = Llama(metadata, tensors), tokenizer.encode(text)
        output, candidates, logits = [], [], model.forward(prompt, 0)
        for step in range(OUTPUT_TOKENS):
            best = numpy.argsort(-logits, kind="stable")[:5]
            candidates.append([[int(token), round(float(logits[best[0]] - logits[token]), 3)] for token in best])
            output.append(int(best[0]))
            if step + 1 < OUTPUT_TOKENS:
                logits = model.forward([output[-1]], len(prompt) + step)
        cases.append({"text": text, "prompt": prompt, "output": output, "candidates": candidates})
        print(repr(text), prompt, output, file=sys.stderr)
    with open(sys.argv[2], "w") as file:
        json.dump({"model": sys.argv[1].split("/")[-1], "cases": cases}, file, separators=(",", ":"))
        file.write("\n")


main()
