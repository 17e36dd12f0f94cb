"""A tiny random vision-language model of the real classes, in the layout of its repositories.

Does not: see or say anything; only shapes, paths and arithmetic are real.
"""

from __future__ import annotations

from pathlib import Path

WORDS = (
    *("<unk>", "<s>", "</s>", "<pad>", "<image>", "?", ".", ":", "USER", "ASSISTANT"),
    *"Is this a photo of picture creature Answer yes or no Yes No".split(),
)
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %} ASSISTANT:{% endfor %}"
)
SIDE, PATCH, WIDTH = 16, 8, 16


def build_tiny_llava(folder: Path) -> Path:
    """A LlavaForConditionalGeneration with its processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    reader = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    reader.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=reader,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    side = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(
            **sizes,
            num_key_value_heads=2,
            vocab_size=len(WORDS),
            max_position_embeddings=64,
        ),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layer=-2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():  # the library's own start is so small that pictures hardly count
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
