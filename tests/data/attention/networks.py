"""Transformers that people export, at reduced width and with random weights: every form of attention in their files.

PyTorch's own layers, and the models of Hugging Face's transformers. `export.py` turns them into the stored ONNX files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import cache_utils

__all__ = ["NETWORKS", "Network"]


class Network(NamedTuple):
    """A network, and what it is exported with.

    Attributes:
        make: Builds it.
        inputs: Example inputs by name, with a batch of 2.
        free: Free axes of each input.
        fixed: Free axes that TorchScript's exporter writes down as numbers.
    """

    make: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    free: Mapping[str, Mapping[int, str]]
    fixed: tuple[str, ...] = ()


class Called(nn.Module):
    """A model of transformers, called with its inputs by name; returns the first output."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, values, strict=True)), return_dict=True)[0]


# --- PyTorch's own layers ---------------------------------------------------------------------------------------


class Cross(nn.Module):
    """nn.MultiheadAttention over a memory of another width: three products."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, kdim=12, vdim=12)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return x + self.attention(x, memory, memory, need_weights=False)[0]


def encoder() -> nn.Module:
    """nn.TransformerEncoder: queries, keys and values are one product, taken apart by select."""
    layer = nn.TransformerEncoderLayer(16, 4, 48, batch_first=True, norm_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def encoder_decoder() -> nn.Module:
    """nn.Transformer, sequence first, as it is by default."""
    return nn.Transformer(16, 4, 1, 1, 48)


# --- transformers -----------------------------------------------------------------------------------------------

_IDS = torch.ones(2, 12, dtype=torch.int64)
_TEXT = {0: "batch", 1: "tokens"}
_ENCODER = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": 30, "max_position_embeddings": 24,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_DECODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 30, "max_position_embeddings": 24,
}  # fmt: skip
_GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 30, "n_positions": 24}
_T5 = {
    "d_model": 16, "d_kv": 4, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4, "vocab_size": 30,
    "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
}  # fmt: skip
_WHISPER = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 30, "num_mel_bins": 8, "max_source_positions": 20,
    "max_target_positions": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def _configured(name: str, settings: Mapping[str, Any], attention: str = "sdpa") -> Any:
    config = getattr(transformers, f"{name}Config")(**settings)
    config._attn_implementation = attention
    return config


def _text(model: str, config: str, settings: Mapping[str, Any], attention: str = "sdpa") -> Network:
    """A model of token ids and an attention mask."""
    names = ("input_ids", "attention_mask")

    def make() -> nn.Module:
        network = getattr(transformers, model)(_configured(config, settings, attention))
        network.config.use_cache = False
        return Called(network, names)

    return Network(make, dict.fromkeys(names, _IDS), dict.fromkeys(names, _TEXT))


def _image(config: str, settings: Mapping[str, Any], attention: str = "sdpa") -> Network:
    def make() -> nn.Module:
        model = getattr(transformers, f"{config}Model")(_configured(config, settings, attention))
        return Called(model, ("pixel_values",))

    return Network(make, {"pixel_values": torch.zeros(2, 3, 32, 32)}, {"pixel_values": {0: "batch"}})


class Part(nn.Module):
    """The decoder of a model with two parts, over what the encoder returned."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        return self.decoder(input_ids=ids, encoder_hidden_states=memory, use_cache=False)[0]


class Cached(nn.Module):
    """A decoder of one layer that takes and returns the keys and values of earlier tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cache = cache_utils.DynamicCache()
        cache.update(keys, values, 0)
        result = self.model(ids, past_key_values=cache, use_cache=True)
        layer = result.past_key_values.layers[0]
        return result.logits, layer.keys, layer.values


def _cached(model: str, config: str, settings: Mapping[str, Any], shape: tuple[int, ...]) -> Network:
    past = {0: "batch", 2: "past"}
    return Network(
        lambda: Cached(getattr(transformers, model)(_configured(config, settings))),
        {"ids": _IDS[:, :2], "keys": torch.zeros(shape), "values": torch.zeros(shape)},
        {"ids": _TEXT, "keys": past, "values": past},
    )


_MEMORY = torch.zeros(2, 7, 16)
_SWIN = {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "image_size": 32, "patch_size": 2, "window_size": 4}
_DISTIL = {
    "dim": 16, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "vocab_size": 30, "max_position_embeddings": 24,
}  # fmt: skip

NETWORKS = {
    "torch_attention": Network(
        Cross,
        {"x": torch.zeros(2, 5, 16), "memory": torch.zeros(2, 6, 12)},
        {"x": {0: "batch", 1: "tokens"}, "memory": {0: "batch", 1: "source"}},
        ("source",),
    ),
    "torch_encoder": Network(encoder, {"x": torch.zeros(2, 5, 16)}, {"x": _TEXT}, ("tokens",)),
    "torch_transformer": Network(
        encoder_decoder,
        {"x": torch.zeros(5, 2, 16), "y": torch.zeros(6, 2, 16)},
        {"x": {0: "tokens", 1: "batch"}, "y": {0: "targets", 1: "batch"}},
    ),
    "bert": _text("BertModel", "Bert", _ENCODER),
    "bert_eager": _text("BertModel", "Bert", _ENCODER, "eager"),
    "distilbert": _text("DistilBertModel", "DistilBert", _DISTIL),
    "roberta": _text("RobertaModel", "Roberta", _ENCODER),
    "vit": _image("ViT", _VISION),
    "deit": _image("DeiT", _VISION, "eager"),
    "swin": _image("Swin", _SWIN, "eager"),
    "gpt2": _text("GPT2LMHeadModel", "GPT2", _GPT2),
    "llama": _text("LlamaForCausalLM", "Llama", _DECODER),
    "qwen2": _text("Qwen2ForCausalLM", "Qwen2", _DECODER, "eager"),
    "qwen3": _text("Qwen3ForCausalLM", "Qwen3", {**_DECODER, "head_dim": 8, "num_hidden_layers": 1}),
    "t5_encoder": _text("T5EncoderModel", "T5", _T5),
    "t5_decoder": Network(
        lambda: Part(transformers.T5Model(_configured("T5", _T5))),
        {"ids": _IDS, "memory": _MEMORY},
        {"ids": _TEXT, "memory": {0: "batch", 1: "source"}},
    ),
    "whisper_encoder": Network(
        lambda: transformers.WhisperModel(_configured("Whisper", _WHISPER)).encoder,
        {"features": torch.zeros(2, 8, 40)},
        {"features": {0: "batch"}},
    ),
    "whisper_decoder": Network(
        lambda: Part(transformers.WhisperModel(_configured("Whisper", _WHISPER))),
        {"ids": _IDS, "memory": torch.zeros(2, 20, 16)},
        {"ids": _TEXT, "memory": {0: "batch"}},
    ),
    "gpt2_cached": _cached("GPT2LMHeadModel", "GPT2", _GPT2, (2, 4, 3, 4)),
    "llama_cached": _cached("LlamaForCausalLM", "Llama", {**_DECODER, "num_hidden_layers": 1}, (2, 2, 3, 8)),
}
