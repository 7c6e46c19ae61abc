"""What each token of a vocabulary reads, on its own, with its spaces.

`Tokenizer.decode` of a lone token cannot serve: it drops the leading space of SentencePiece pieces
and turns half of a character into `�`, so that different tokens read alike. We undo the byte-level
alphabet instead.
"""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_texts(folder: Path) -> list[str]:
    r"""Return the text of every token id of a Hugging Face tokenizer folder.

    Bytes that are no whole character show as `\xe2\x80`; ids that the vocabulary skips are empty.
    Raises ValueError where the folder holds no tokenizer.json.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no tokenizer.json; expected a Hugging Face fast tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    added = {id_: token.content for id_, token in tokenizer.get_added_tokens_decoder().items()}
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    read = _byte_level_text if _is_byte_level(path) else _Decoder(tokenizer).text
    texts = [""] * (max(pieces.values(), default=-1) + 1)
    for piece, id_ in pieces.items():
        texts[id_] = added[id_] if id_ in added else read(piece)
    return texts


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of the byte-level alphabet stands for.

    Printable bytes stand for themselves, the others for characters from U+0100 on, in order, as in
    `bytes_to_unicode` of GPT-2's encoder.py.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + n): byte for n, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_ALPHABET = byte_alphabet()


def _is_byte_level(path: Path) -> bool:
    """Return whether a tokenizer's decoder, or one of its decoders, is byte-level."""
    decoder = json.loads(path.read_text(encoding="utf-8")).get("decoder") or {}
    return "ByteLevel" in {part["type"] for part in [decoder, *decoder.get("decoders", [])] if part}


def _byte_level_text(piece: str) -> str:
    if not all(character in _ALPHABET for character in piece):
        return piece
    return bytes(_ALPHABET[character] for character in piece).decode("utf-8", "backslashreplace")


class _Decoder:
    """Reads a piece as what it adds behind another one, where no leading space is dropped."""

    def __init__(self, tokenizer: Tokenizer):
        self._decoder = tokenizer.decoder
        self._before = self._decode("a")

    def text(self, piece: str) -> str:
        """Return the text of a piece."""
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)]).decode("utf-8", "backslashreplace")
        return self._decode("a", piece).removeprefix(self._before)

    def _decode(self, *pieces: str) -> str:
        return self._decoder.decode(list(pieces)) if self._decoder else "".join(pieces)
