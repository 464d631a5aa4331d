"""What models answered: kept answer by answer, so that an interrupted run asks for none twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.artifacts.checked_lines import checked_line, checked_records

CUT = "finish_reason length"  # the note of an answer that reached max_new_tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt.

    Attributes:
        response: The text, as it was.
        note: What is odd about it ("finish_reason length", "empty"); empty if nothing is.
        reasoning: What a server says apart from the text that the model thought before it; None
            where it says nothing of the kind, so that the text may hold it.
    """

    response: str
    note: str = ""
    reasoning: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether it ended because it was as long as it may be, and not by itself."""
        return self.note == CUT


class ResponseStore:
    """A folder of answers, one file for everything that decides an answer but the prompt.

    Attributes:
        root: The folder; made with the first answer.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, header: Mapping[str, Any]) -> ResponseFile:
        """The file of the answers that were made as `header` says.

        Args:
            header: Who answered, and how, as JSON; the file's first line shows it.
        """
        plain = json.loads(json.dumps(header, allow_nan=False))  # tuples become lists
        name = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
        return ResponseFile(self.root / f"{name}.jsonl", plain)


class ResponseFile:
    """Answers by key; several processes may add to it at once.

    A header line, then one line per answer, and nothing is ever changed. A line that a crash cut
    off is passed over, and its answer is missing; one that was changed is refused. Of two answers
    with one key the first counts, for good, whoever reads.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """The file at `path`, which need not be there.

        Args:
            path: Where it lies.
            header: What its first line must say.
        """
        self.path = path
        self._header = dict(header)
        self._is_headed = False

    def read(self) -> dict[str, Answer]:
        """Key -> answer, of all that are there.

        Raises:
            ValueError: If the file cannot be read, a line of it was changed, or it is another
                one's under this name.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read ({error.strerror}).") from error
        answers: dict[str, Answer] = {}
        for number, record in checked_records(self.path, content):
            if record.get("header", self._header) != self._header:
                raise ValueError(
                    f"{self.path}:{number}: the answers in this file were made in another way than "
                    "its name says. Delete it to have them made again."
                )
            self._is_headed |= "header" in record
            if {"key", "response"} <= record.keys():
                answer = Answer(record["response"], record.get("note", ""), record.get("reasoning"))
                answers.setdefault(record["key"], answer)
        return answers

    def append(self, answers: Mapping[str, Answer]) -> None:
        """Add answers; once this returns they outlast a crash of the machine.

        Raises:
            ValueError: If they cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                self._write(handle, answers)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise ValueError(
                f"{self.path}: the answers cannot be kept ({error.strerror}). Those before are. "
                "Make room or give a run_dir that is writable, and run the same command again."
            ) from error

    def _write(self, handle: int, answers: Mapping[str, Answer]) -> None:
        size = os.fstat(handle).st_size
        # Once in the file suffices, but one that a crash cut off is not there.
        records: list[dict[str, Any]] = [] if self._is_headed else [{"header": self._header}]
        for key, answer in answers.items():
            more = {"note": answer.note} if answer.note else {}
            more |= {} if answer.reasoning is None else {"reasoning": answer.reasoning}
            records.append({"key": key, "response": answer.response, **more})
        text = "".join(map(checked_line, records))
        if size:
            os.lseek(handle, size - 1, os.SEEK_SET)
            if os.read(handle, 1) != b"\n":  # a line that a crash cut off: keep ours apart from it
                text = "\n" + text
        # One call, which appends: what other processes write comes before or after, not between.
        # Where one of them is just writing, the look above may at worst have added an empty line.
        data = text.encode()
        written = os.write(handle, data)
        while written < len(data):  # a disk that is nearly full; the next call says so
            written += os.write(handle, data[written:])
        self._is_headed = True
