"""What a pool costs from its file to `selected.jsonl`, without a model; prints a table per size.

    python benchmarks/large_pool.py [--rows 1000000] [--short] [--no-tokens] [--folder DIR]

Rows are synthetic: the words of prompt and completion are drawn from 4096, their numbers from
log-normal distributions of median 25 (sigma 0.7) and 110 (sigma 0.8), which is 33 and 152 on
average and about 1.1 KB a row; `--short` divides the medians by ten. Tokens are words (a tokenizer
with one for each, made here), cut at 256. Every thousandth row is a copy of the one before it.

Sizes are `--smallest`, ten times that, ... up to `--rows`. Each step runs in a fresh process on
what the earlier ones left in the run folder, and says its seconds, by the clock and of the
processor (which other work on the machine hardly moves), and the most memory it held: anonymous and
shared pages (RssAnon + RssShmem of /proc/self/status, sampled every 20 ms) are what counts against
the bar of 4 GB; pages of mapped files (RssFile) are the system's to take back. `base` is a process
that has imported everything and done nothing; per row, memory is what is above it.

    read     `load`: rows to samples, kept
    encode   `encode_set`: samples to tokens, kept
    again    both once more, from what is kept
    rank     `Random`, and `Loss` of a table of losses that is made up; both saved
    seal     `SgdSelector`: two epochs of `epoch_order` in batches of 64, then the closing step
    select   the best 80 % of the ranking, a quota for one source; saved as Parquet
    write    `selected.jsonl`

Microseconds are of the processor. Beyond some 10 000 rows, where they outweigh what a process does
once, microseconds and bytes per row should be flat or fall. On Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seal.artifacts.ids import Ids
from seal.artifacts.loss_table import LossTable
from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.artifacts.row_table import build_table
from seal.artifacts.selection import load_selection, save_selection
from seal.data.batches import epoch_order
from seal.data.load import EncodedSet, SampleSet, encode_set, load
from seal.data.rows import DataSpec
from seal.data.tokenize import ChatEncoder, Tokenization
from seal.rankers.random import Random
from seal.rankers.selector import SgdSelector
from seal.stages.select import SelectSettings, save_selected, select

BAR_BYTES = 4 * 2**30
SMALLEST = 1000
NUM_WORDS = 4096
BATCH = 64
EPOCHS = 2
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|user|>", "<|assistant|>", "<|end|>"]


def write_rows(path: Path, num: int, *, short: bool) -> None:
    """Stream synthetic rows into a file."""
    rng = np.random.default_rng(0)
    words = make_words()
    medians = np.array([25, 110]) / (10 if short else 1)
    with path.open("w", encoding="utf-8") as file:
        line = ""
        for start in range(0, num, 1000):
            sizes = 1 + rng.lognormal(np.log(medians), [0.7, 0.8], size=(999, 2)).astype(int)
            drawn = iter(words[rng.integers(0, len(words), sizes.sum())].tolist())
            for place, (num_prompt, num_response) in enumerate(sizes.tolist(), start=start):
                row = {
                    "prompt": " ".join([str(place), *islice(drawn, num_prompt)]),
                    "completion": " ".join(islice(drawn, num_response)),
                    "source": f"source-{place % 7}",
                }
                line = json.dumps(row) + "\n"
                file.write(line)
            file.write(line)


def make_words() -> np.ndarray:
    """The words that rows are made of."""
    letters = np.random.default_rng(0).integers(97, 123, (NUM_WORDS, 5))
    return np.array(["".join(map(chr, word)) for word in letters])


def make_encoder() -> ChatEncoder:
    """One token for each word, and for each special."""
    names = ["<unk>", *SPECIALS, *sorted(set(make_words().tolist()))]
    vocabulary = {token: place for place, token in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIALS[:2],
    )
    return ChatEncoder(wrapped, template=TEMPLATE)


class Steps:
    """The steps on one run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def base(self) -> None:
        """Nothing."""

    def read(self) -> SampleSet:
        """Rows to samples."""
        spec = DataSpec(path=str(self._folder / "pool.jsonl"))
        return load([spec], name="pool", cache=self._folder / "data")

    def encode(self) -> EncodedSet:
        """Samples to tokens."""
        cache = self._folder / "data"
        tokenization = Tokenization(max_length=256)
        return encode_set(self.read(), make_encoder(), tokenization, name="pool", cache=cache)

    def again(self) -> None:
        """What is kept, once more, and a look at every hundredth sample."""
        encoded = self.encode()
        samples = self.read()
        assert len(samples.samples) == len(encoded.encoded) + len(encoded.excluded)
        assert all(len(samples.rows[row.id]) == 3 for row in encoded.encoded[::100])

    def ids(self) -> Ids:
        """The samples to rank: those that were encoded, or all where none was."""
        is_encoded = any((self._folder / "data").glob("tokens-*"))
        return self.encode().encoded.ids if is_encoded else self.read().samples.ids

    def rank(self) -> None:
        """Random scores, and losses from a table."""
        ids = self.ids()
        save_ranking(Random().score(ids), self._folder / "ranking.parquet")

        def fill(places: Sequence[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for place in places:
                nll = np.array([place % 97, 1], dtype=np.float32)
                yield place, {"nll": nll, "num_bytes": np.ones(1, dtype=np.int64)}

        table = build_table(self._folder / "losses", {}, ids, fill)
        losses = LossTable(table, ids).mean
        save_ranking(make_ranking(ids, -losses, {"loss": losses}), self._folder / "loss.parquet")

    def seal(self) -> None:
        """Epochs of the selector over the pool, with gaps that are made up."""
        ids = self.ids().ascending()
        gaps = torch.from_numpy(np.random.default_rng(1).normal(size=len(ids))).float()
        selector = SgdSelector(len(ids), "softmax", 5e-3)
        for epoch in range(EPOCHS):
            order = epoch_order(len(ids), seed=0, stream="pool", epoch=epoch)
            for start in range(0, len(ids), BATCH):
                batch = torch.from_numpy(order[start : start + BATCH])
                selector.update(batch, gaps[batch])
        selector.update(torch.arange(len(ids)), gaps)
        save_ranking(make_ranking(ids, selector.logits.numpy()), self._folder / "seal.parquet")

    def select(self) -> None:
        """The best 80 %, and half of one source."""
        settings = SelectSettings(fraction=0.8, quotas={"source-3": 0.5})
        ranking = load_ranking(self._folder / "ranking.parquet")
        samples = self.read().samples
        ranked = samples.take(np.flatnonzero(samples.ids.is_in(self.ids())))
        kept = select(ranking, ranked, settings)
        save_selection(kept, self._folder / "chosen.parquet")

    def write(self) -> None:
        """The rows of the selection."""
        save_selected(
            load_selection(self._folder / "chosen.parquet"), self.read().rows, self._folder
        )


STEPS = ("base", "read", "encode", "again", "rank", "seal", "select", "write")


def resident() -> np.ndarray:
    """Bytes of this process: anonymous and shared, and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, shared, mapped = (
        1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem", "RssFile")
    )
    return np.array([anonymous + shared, mapped])


@contextmanager
def watched() -> Iterator[list[np.ndarray]]:
    """The most memory of each kind that is held while the block runs."""
    peak, is_over = [resident()], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            peak[0] = np.maximum(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()
        peak[0] = np.maximum(peak[0], resident())


def run_step(action: Callable[[], object]) -> None:
    """Do one step in this process; print its seconds and memory as JSON."""
    with watched() as peak:
        start, worked = time.perf_counter(), time.process_time()
        action()
        seconds = [time.perf_counter() - start, time.process_time() - worked]
    sys.stdout.write(json.dumps([*seconds, *map(int, peak[0])]) + "\n")


def in_fresh_process(step: str, folder: Path) -> list[float]:
    """Seconds and bytes of one step."""
    words = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(num: int, above: Path, steps: Sequence[str], *, short: bool) -> bool:
    """Print the table of one size; returns whether every step kept to the bar."""
    folder = Path(tempfile.mkdtemp(prefix=f"large-pool-{num}-", dir=above))
    out = sys.stdout.write
    try:
        write_rows(folder / "pool.jsonl", num, short=short)
        size = (folder / "pool.jsonl").stat().st_size
        out(f"\n{num:,} rows, {size / num:.0f} bytes each\n")
        out(f"{'step':8}{'seconds':>9}{'CPU s':>9}{'us/row':>9}")
        out(f"{'held MB':>9}{'B/row':>8}{'mapped MB':>11}\n")
        base, most = 0.0, 0.0
        for step in steps:
            seconds, worked, held, mapped = in_fresh_process(step, folder)
            base, most = base or held, max(most, held)
            out(f"{step:8}{seconds:9.2f}{worked:9.2f}{1e6 * worked / num:9.2f}{held / 1e6:9.0f}")
            out(f"{(held - base) / num:8.0f}{mapped / 1e6:11.0f}\n")
            sys.stdout.flush()
        fits = most < BAR_BYTES
        out(f"most held: {most / 1e9:.2f} GB, {'within' if fits else 'ABOVE'} 4 GB\n")
        return fits
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Measure every size, or do one step of one."""
    parser = argparse.ArgumentParser(description="What a pool costs, by size.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--short", action="store_true", help="rows of a tenth of the length")
    parser.add_argument("--no-tokens", action="store_true", help="leave out encode and again")
    parser.add_argument("--smallest", type=int, default=SMALLEST)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        run_step(getattr(Steps(given.folder), given.step))
        return 0
    steps = [step for step in STEPS if not (given.no_tokens and step in {"encode", "again"})]
    num, fits = given.smallest, True
    while num <= given.rows:
        fits &= measure(num, given.folder, steps, short=given.short)
        num *= 10
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
