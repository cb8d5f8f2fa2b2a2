"""Tiny random checkpoints of real architectures, with tokenizers of whole words: what runners and probes are tested with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WORDS = "the a he she bank river money check deposited at of in shard tensor is red blue what layer plays un ##likely".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_VOCABULARY = len(SPECIAL) + len(WORDS)


def tokenizer(*, framed: bool = True, pads: bool = True) -> Any:
    """Words and pieces of words; `framed` puts [CLS] and [SEP] around a text, `pads` says whether there is a padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if framed:
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"unk_token": "[UNK]", "eos_token": "[SEP]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special, **({"pad_token": "[PAD]"} if pads else {}))


def _bert(class_name: str, **changes: Any) -> Any:
    import transformers

    return getattr(transformers, class_name)(transformers.BertConfig(**_SIZES, vocab_size=_VOCABULARY, **changes))


def _xlmr() -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    # Positions are counted from behind the padding token's: 64 of them are 62 tokens.
    return XLMRobertaForMaskedLM(XLMRobertaConfig(**_SIZES, vocab_size=_VOCABULARY, pad_token_id=1, max_position_embeddings=64))


def _roberta_classifier() -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(**_SIZES, vocab_size=_VOCABULARY, pad_token_id=1, max_position_embeddings=64))


def _mt5() -> Any:
    from transformers import MT5Config, MT5ForConditionalGeneration

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    return MT5ForConditionalGeneration(MT5Config(**sizes, vocab_size=_VOCABULARY, decoder_start_token_id=0, tie_word_embeddings=False))


def _bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"d_model": 32, "max_position_embeddings": 64}
    sizes |= {
        f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    }
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 3}
    return BartForConditionalGeneration(BartConfig(**sizes, **special, vocab_size=_VOCABULARY, forced_eos_token_id=None))


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, num_key_value_heads=2, vocab_size=_VOCABULARY, max_position_embeddings=64))


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
    return GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=_VOCABULARY))


MODELS: Mapping[str, Callable[[], Any]] = {
    "mbert": lambda: _bert("BertForMaskedLM"),
    "xlmr": _xlmr,
    "labse": lambda: _bert("BertModel"),
    "minilm": lambda: _bert("BertModel"),
    "roberta-classifier": _roberta_classifier,
    "mt5": _mt5,
    "bart": _bart,
    "llama": _llama,
    "gpt2": _gpt2,
}
_UNFRAMED = ("llama", "gpt2")


def save_model(name: str, folder: Path) -> Path:
    """The model `name` of MODELS with its tokenizer, written to `folder`; the same weights every time."""
    import torch

    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder)
    tokenizer(framed=name not in _UNFRAMED, pads=name not in _UNFRAMED).save_pretrained(folder)
    return folder
