"""A second tiny model on disk: other weights, and if asked for another tokenizer."""

from pathlib import Path

from tiny_model import TEXT, make_model, make_tokenizer


def save_second_model(folder: Path, *, other_tokenizer: bool = False) -> Path:
    """The tiny model from another seed; with `other_tokenizer`, words are cut more finely."""
    tokenizer = make_tokenizer()
    if other_tokenizer:
        tokenizer = tokenizer.train_new_from_iterator(TEXT[:1], 275, show_progress=False)
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer), seed=1).save_pretrained(folder)
    return folder
